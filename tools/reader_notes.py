"""Reader's notes: short marks after a sentence that say how certain, or how biased, it was.

A language model this small has no reason to keep track of how certain a sentence is. A note gives it one: to
predict which note follows, it must carry the answer at the sentence's last token. Notes are four extra tokens; a
text that is scored never contains them. Where a note's answer comes from, weakest last:

* hand-written sentences (tools/hedging) and human-labelled bias sets, their TEACH part only;
* minimal pairs: a plain sentence rewritten to be hedged or emphatic by rules (hedging_rules.py);
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


def lexicon_note(sentence: str) -> str | None:
    """UNCERTAIN if a strong cue stands in the sentence, CERTAIN if no cue at all does, else None."""
    if STRONG_CUES.search(sentence):
        return UNCERTAIN
    return None if WEAK_CUES.search(sentence) else CERTAIN


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
