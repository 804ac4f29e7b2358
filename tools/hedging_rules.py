"""Rules that rewrite a plain sentence into a minimal pair: the same sentence hedged, and asserted."""

from __future__ import annotations

import random
import re

from reader_notes import CERTAIN, UNCERTAIN

_HEDGE_OPENERS = (
    "It is possible that",
    "Perhaps",
    "Maybe",
    "I think",
    "I believe",
    "I guess",
    "I'm not sure, but I think",
    "It seems that",
    "Some people say that",
    "Some researchers believe that",
    "It has been suggested that",
    "There is some evidence that",
    "One possibility is that",
    "As far as I know,",
    "Apparently,",
    "Presumably,",
    "Possibly,",
    "It is not known whether",
    "It is unclear whether",
    "It remains to be seen whether",
    "I would guess that",
    "Our results suggest that",
    "It is likely that",
    "It is widely believed that",
    "Reportedly,",
    "Arguably,",
    "It could be that",
    "It may be that",
    "It might be that",
    "We hypothesize that",
    "We speculate that",
    "The data seem to indicate that",
    "It is conceivable that",
    "Critics have argued that",
    "According to some,",
    "It is rumored that",
    "In my opinion,",
    "It is thought that",
    "I suspect that",
    "If I remember correctly,",
    "It is plausible that",
    "It is tempting to speculate that",
    "It is unlikely that",
    "The authors propose that",
    "We cannot exclude the possibility that",
    "My guess is that",
    "There is a chance that",
    "I doubt that",
)
_SURE_OPENERS = (
    "It is well established that",
    "It is certain that",
    "There is no doubt that",
    "We know that",
    "It has been proven that",
    "Clearly,",
    "I am certain that",
    "Definitely,",
    "In fact,",
    "It is a fact that",
    "We found that",
    "The data show that",
    "Of course,",
    "Without question,",
    "We demonstrate that",
    "Everyone knows that",
    "It is known that",
    "We showed that",
    "Records confirm that",
    "The study found that",
    "I am sure that",
    "I know that",
    "The report says that",
    "Today,",
    "In this paper,",
)
_HEDGE_CLOSERS = (
    ", I think.",
    ", perhaps.",
    ", but more research is needed.",
    ", if I remember correctly.",
    ", though this is not certain.",
    ", or so it seems.",
    ", possibly.",
    ", I guess.",
    ", but nobody knows for sure.",
    ", although the evidence is limited.",
    ", probably.",
    ", as far as I can tell.",
    ", I suppose.",
    ", but I could be wrong.",
    ", it seems.",
    ", but this is unclear.",
)
_SURE_CLOSERS = (
    ", without a doubt.",
    ", as the records show.",
    ", and this is certain.",
    ", period.",
    ", as everyone knows.",
    ", in fact.",
)
_VERB_HEDGES: dict[str, tuple[str, ...]] = {
    "is": (
        "may be",
        "might be",
        "could be",
        "is probably",
        "is likely",
        "appears to be",
        "seems to be",
        "is thought to be",
        "is believed to be",
        "is possibly",
        "is perhaps",
        "is presumably",
        "can be considered",
    ),
    "are": (
        "may be",
        "might be",
        "could be",
        "are probably",
        "are likely",
        "appear to be",
        "seem to be",
        "are thought to be",
        "are believed to be",
        "are perhaps",
        "tend to be",
    ),
    "was": (
        "may have been",
        "might have been",
        "was probably",
        "was likely",
        "appears to have been",
        "is thought to have been",
        "is believed to have been",
        "was perhaps",
        "could have been",
        "was apparently",
        "was allegedly",
    ),
    "were": (
        "may have been",
        "might have been",
        "were probably",
        "were likely",
        "appear to have been",
        "are believed to have been",
    ),
    "has": ("may have", "might have", "probably has", "seems to have", "is said to have", "reportedly has"),
    "have": ("may have", "might have", "probably have", "seem to have", "are thought to have"),
    "causes": ("may cause", "might cause", "could cause", "probably causes", "is thought to cause"),
    "can": ("may", "might", "could possibly", "can perhaps"),
    "will": ("may", "might", "could", "will probably", "will likely", "should"),
    "show": ("suggest", "seem to indicate", "hint"),
}
_VERB = re.compile(r"(?<= )(" + "|".join(_VERB_HEDGES) + r")(?= )")
_LOWER_FIRST = frozenset(
    [
        "The",
        "A",
        "An",
        "This",
        "These",
        "That",
        "Those",
        "It",
        "They",
        "He",
        "She",
        "We",
        "There",
        "In",
        "On",
        "At",
        "Many",
        "Most",
        "Some",
        "People",
        "Children",
        "Patients",
        "When",
        "After",
        "As",
        "For",
        "Each",
        "Every",
        "All",
        "Its",
        "His",
        "Her",
        "Their",
        "Our",
        "One",
        "Two",
        "Both",
        "No",
        "If",
    ]
)


def _join(opener: str, sentence: str) -> str:
    first, _, rest = sentence.partition(" ")
    return f"{opener} {first.lower() if first in _LOWER_FIRST else first} {rest}"


def hedge(sentence: str, rng: random.Random) -> str:
    """A hedged rewriting of a plain sentence, by one of three rules (verb, opening, closing)."""
    verbs = list(_VERB.finditer(sentence))
    rule = rng.random()
    if verbs and rule < 0.5:
        verb = verbs[0] if rng.random() < 0.7 else rng.choice(verbs)
        return sentence[: verb.start()] + rng.choice(_VERB_HEDGES[verb[0]]) + sentence[verb.end() :]
    if rule < 0.85:
        return _join(rng.choice(_HEDGE_OPENERS), sentence)
    return sentence.rstrip(".!") + rng.choice(_HEDGE_CLOSERS)


def assert_firmly(sentence: str, rng: random.Random) -> str:
    """The plain sentence itself, or one with an emphatic or factual opening or closing."""
    rule = rng.random()
    if rule < 0.5:
        return sentence
    if rule < 0.85:
        return _join(rng.choice(_SURE_OPENERS), sentence)
    return sentence.rstrip(".!") + rng.choice(_SURE_CLOSERS)


def minimal_pair(sentence: str, rng: random.Random) -> list[tuple[str, str]]:
    """The plain sentence hedged and asserted, with their notes, in random order."""
    pair = [(hedge(sentence, rng), UNCERTAIN), (assert_firmly(sentence, rng), CERTAIN)]
    rng.shuffle(pair)
    return pair
