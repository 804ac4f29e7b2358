"""Reader's notes: short marks after a sentence that say how certain, or how biased, it was.

A language model this small has no reason to keep track of how certain a sentence is. A note gives it one: to
predict which note follows, it must carry the answer at the sentence's last token. Notes are four extra tokens; a
text that is scored never contains them. Where a note's answer comes from, weakest last:

* hand-written sentences (tools/hedging) and human-labelled bias sets, their TEACH part only;
* minimal pairs: a plain sentence rewritten to be hedged or emphatic by the rules below;
* a lexicon of hedging cues, on sentences of the plain corpora (left without a note where unsure).

The human-labelled hedging sets never carry a note.
"""

from __future__ import annotations

import random
import re

UNCERTAIN, CERTAIN, BIASED, NEUTRAL = "<note:uncertain>", "<note:certain>", "<note:biased>", "<note:neutral>"
NOTES = (UNCERTAIN, CERTAIN, BIASED, NEUTRAL)

#: Words that make a sentence uncertain almost wherever they stand.
STRONG_CUES = re.compile(
    r"\b(?:may(?! \d)(?! (?:God|I\b|we\b|you\b|the Lord))|might(?! of\b)|possibl[ey]|possibility|perhaps|maybe|probabl[ey]|presumabl[ey]|"
    r"seem(?:s|ed|ingly)?|appears? to|appeared to|apparently|likely|unlikely|suggest(?:s|ed|ing)? that|suggestive|"
    r"potential(?:ly)?|could be|could have|could also|could (?:help|explain|lead|cause|reduce|improve|result|make|mean)|"
    r"(?:is|are|was|were|been) (?:thought|believed|suspected|assumed|speculated|hypothesi[sz]ed|rumou?red|said|considered) to|"
    r"(?:it is|it's|it was|been) (?:thought|believed|suspected|suggested|speculated|hypothesi[sz]ed|proposed|unclear|unknown|conceivable|plausible)|"
    r"(?:i|we|they) (?:think|believe|guess|suspect|suppose|assume|imagine|speculate|hypothesi[sz]e|wonder|doubt)|"
    r"not (?:entirely |quite |fully |completely |really )?(?:sure|certain|clear|known|understood|convinced)|uncertain(?:ty)?|unclear|remains? to be|"
    r"i'm guessing|not clear (?:if|whether|why)|hard to say|arguabl[ey]|allegedly|reportedly|supposedly|purported(?:ly)?|hypothes[ei]s|"
    r"putative|tentative(?:ly)?|speculati(?:ve|on)|conceivabl[ey]|plausibl[ey]|some (?:people|scholars|critics|researchers|experts|say|believe|argue)|"
    r"whether or not|further (?:research|studies|work|study) (?:is|are)|if i remember|as far as i know|more or less)\b",
    re.IGNORECASE,
)
#: Words that can hedge; a sentence with one of these and no strong cue is left unlabelled.
WEAK_CUES = re.compile(
    r"\b(?:may|might|could|would|should|can|suggest\w*|indicat\w+|appear\w*|estimat\w+|about|around|approximately|roughly|"
    r"some|several|often|usually|generally|typically|sometimes|tend\w*|mostly|largely|almost|nearly|expect\w*|hope\w*|"
    r"believ\w*|think|thought|feel|felt|claim\w*|considered|regarded|propos\w+|if|whether|unknown|rarely|occasionally|"
    r"many|most|variety|various|sort of|kind of|quite|rather|fairly|relatively|somewhat|doubt\w*|sure|guess|suppose\w*|support\w*|consistent)\b|\?",
    re.IGNORECASE,
)

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


def lexicon_note(sentence: str) -> str | None:
    """UNCERTAIN if a strong cue stands in the sentence, CERTAIN if no cue at all does, else None."""
    if STRONG_CUES.search(sentence):
        return UNCERTAIN
    return None if WEAK_CUES.search(sentence) else CERTAIN


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


def roughen(text: str, rng: random.Random) -> str:
    """Sometimes lower-cased, sometimes without its last full stop: texts in the wild come so."""
    if rng.random() < 0.12:
        text = text.lower()
    if rng.random() < 0.12:
        text = text.rstrip(".")
    return text


def noted(pairs: list[tuple[str, str | None]], share: float, rng: random.Random) -> str:
    """Sentences in a row; each that has a note shows it with probability `share`."""
    shown = [roughen(text, rng) + (note if note and rng.random() < share else "") for text, note in pairs]
    return " ".join(shown)
