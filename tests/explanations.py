"""Explanations made by hand, as tests of the page and the terminal need them: all they say holds together."""

import math
import re
from collections.abc import Sequence

from scopewatch.explanation import (
    Ablation,
    BenignPair,
    Change,
    CoverageExplained,
    Deletion,
    DictionaryFeature,
    Explanation,
    Feature,
    Group,
    Heat,
    IndicatorExplained,
    ProvenanceExplained,
    SaeExplained,
    SegmentFeatures,
    Sentence,
    Span,
    Term,
    Text,
    TokenFeatures,
    Tokens,
    WordChange,
)

PROMPT = "My creatinine rose from 1.1 to 2.3 mg/dL within a week of starting ibuprofen. Do I need dialysis?"
SENTENCES = (
    "A rise like that is called acute kidney injury.",
    "Ibuprofen probably narrowed the vessels that feed the filters of your kidneys.",
    "You will need dialysis within ten days.",
    "It may also be that you drank too little, so a doctor should measure it again.",
)
RESPONSE = " ".join(SENTENCES)
HISTORY = "I have had high blood pressure for some years."
PROVENANCE = ProvenanceExplained(
    reader="example/clinic-reader",
    reader_revision="main",
    reader_digest="3b1f" * 16,
    watchlist="clinic",
    watchlist_digest="90ab" * 16,
    relation="reader_model",
    version="0.1.0",
    rendering_digest="77c0" * 16,
    saes={"late": "e5d2" * 16},
)


def tokens_of(texts: Sequence[Text], logprobs: bool = True) -> Tokens:
    """Words with the space before them, punctuation alone; each with a log-probability."""
    found = [
        (number, match.start(), match.end())
        for number, text in enumerate(texts)
        for match in re.finditer(r"\s?(?:\w+|[^\w\s])", text.text)
    ]
    text, start, end = zip(*found, strict=True) if found else ((), (), ())
    chances = tuple(-0.2 - 3.1 * abs(math.sin(5 * at)) for at in range(len(found))) if logprobs else ()
    return Tokens(text=text, start=start, end=end, logprob=chances)


def heat_on(texts: Sequence[Text], tokens: Tokens, words: dict[str, float], segment: str = "response") -> Heat:
    """Heat on the tokens of a segment that begin so."""
    found = {}
    for token, (text, start, end) in enumerate(zip(tokens.text, tokens.start, tokens.end, strict=True)):
        word = texts[text].text[start:end].strip()
        if texts[text].segment == segment and word in words:
            found[token] = words[word]
    return Heat(token=tuple(found), value=tuple(found.values()))


def indicator(name: str, bias: float, terms: Sequence[Term], **more: object) -> IndicatorExplained:
    """An indicator whose score is the sum of its terms."""
    score = math.fsum([bias, *(term.contribution for term in terms)])
    values: dict[str, object] = {
        "name": name,
        "kind": "features",
        "severity": "high",
        "segment": "response",
        "score": score,
        "threshold": 0.0,
        "flagged": score > 0,
        "calibrated": True,
        "bias": bias,
        "terms": tuple(sorted(terms, key=lambda term: -abs(term.contribution))),
    }
    return IndicatorExplained.model_validate(values | more)


def term(feature: str, pooled: float, weight: float, label: str = "", **more: object) -> Term:
    return Term.model_validate(
        {"feature": feature, "label": label, "pooling": "max", "pooled": pooled, "contribution": pooled * weight} | more
    )


def with_probability(made: IndicatorExplained, slope: float, intercept: float) -> IndicatorExplained:
    chance = 1 / (1 + math.exp(-(slope * made.score + intercept)))
    return made.model_copy(update={"slope": slope, "intercept": intercept, "probability": chance})


def sentences_of(texts: Sequence[Text]) -> tuple[Sentence, ...]:
    response = len(texts) - 1
    quadrants = ("solid", "cautious", "check_first", "speculative")
    found, start = [], 0
    for number, sentence in enumerate(SENTENCES):
        hedged, surprising = number in {1, 3}, number in {2, 3}
        found.append(
            Sentence(
                text=response,
                start=start,
                end=start + len(sentence),
                hedging=1.4 if hedged else -0.8,
                hedged=hedged,
                logprob=-3.2 if surprising else -1.1,
                percentile=0.04 if surprising else 0.62,
                surprising=surprising,
                quadrant=quadrants[number],
                knowledge=("medical knowledge",) if number < 2 else (),
            )
        )
        start += len(sentence) + 1
    return tuple(found)


def flagged() -> Explanation:
    """A flagged clinical answer of which everything is told."""
    texts = (
        Text(segment="history", turn=0, role="user", text=HISTORY),
        Text(segment="prompt", text=PROMPT),
        Text(segment="response", text=RESPONSE),
    )
    tokens = tokens_of(texts)
    n = len(tokens.text)
    guess_words = {"probably": 2.31, "may": 3.02, "also": 0.7, "will": -1.1, "need": -0.4, "should": 1.2, "that": 0.21}
    guess = heat_on(texts, tokens, guess_words)
    medicine = heat_on(texts, tokens, {"kidney": 4.1, "kidneys": 3.7, "Ibuprofen": 2.2, "dialysis": 3.0, "injury": 1.0})
    hedges = indicator(
        "hedging",
        -0.9517,
        [
            term("late/311", 3.02, 0.7113, "might, may, could", label_source="human", percentile=0.97),
            term("late/1203", 2.31, 0.4142, "probably", label_source="gpt-4o-mini", percentile=0.91),
            term("late/77", 1.7, -0.3333, "orders and promises", label_source="human", percentile=0.5),
            term("late/4090", 0.0041, 0.5),
        ],
        label="hedging",
        percentile=0.93,
        heat=guess,
        card=("Of 100 sentences like these that it flags, about 88 hedge.",),
    )
    lacks = indicator(
        "no_support",
        0.2,
        [term("late/905", 1.15, 0.36, "figures without a source", label_source="human")],
        label="claims without support",
        threshold=1.5,
        flagged=False,
        severity="low",
        percentile=0.41,
        heat=heat_on(texts, tokens, {"ten": 1.15, "days": 0.3}),
    )
    speculation = with_probability(
        indicator(
            "speculation",
            -0.25,
            [
                Term(feature="hedging", pooled=hedges.score, contribution=hedges.score * 0.8, percentile=0.93),
                Term(feature="no_support", pooled=lacks.score, contribution=lacks.score * 0.6, percentile=0.41),
            ],
            label="speculation",
            kind="combination",
            threshold=0.5,
            percentile=0.972,
            benign_pairs=(
                BenignPair(id="clinic-0412", score=0.94, percentile=0.95),
                BenignPair(id="clinic-0077", score=1.31, percentile=0.99),
            ),
            heat=guess,
            card=(
                "Its threshold was chosen on 1,200 pairs of clinical questions.",
                "Of 100 pairs like these that it flags, about 71 speculate.",
                "It wrongly flags at most 5 of 100 pairs that do not.",
            ),
        ),
        2.4,
        -1.1,
    )
    probe = indicator(
        "tone",
        0.0,
        [],
        label="tone",
        kind="probe",
        severity="info",
        skipped_reason="the pair has no history that it could read",
        calibrated=False,
    )
    share = tuple(0.35 + 0.5 * abs(math.sin(at)) for at in range(n))
    features = tuple(
        TokenFeatures(feature=(311, 1203, 2000 + at % 7), activation=(3.02, 1.4, 0.3 + at % 3)) for at in range(n)
    )
    seen = (
        DictionaryFeature(feature=17, label="organs", label_source="gpt-4o-mini", peak=9.1, mean=1.2, tokens=14),
        DictionaryFeature(feature=311, label="might, may, could", label_source="human", peak=3.02, mean=0.2, tokens=3, watched=True),
        DictionaryFeature(feature=8112, peak=2.2, mean=0.1, tokens=2),
    )  # fmt: skip
    return Explanation(
        request_id="req-2291",
        verdict="flag",
        summary=(
            "This answer was flagged because it speaks as one who guesses: words such as may and probably, which stand "
            "in two of its four sentences, weighed most. One sentence states as a fact what the reader did not expect: "
            "that dialysis will be needed within ten days."
        ),
        trust=(
            "56 % of what the reader computed on the response is not explained by its features: what decided may be in there.",
            "Another model than the one that wrote the answer read it; this says how the answer reads, not how it was made.",
            "A flag is no proof that the answer is wrong, and no flag is no proof that it is right.",
            "The labels of two features were written by a machine and were not checked.",
        ),
        texts=texts,
        tokens=tokens,
        indicators=(hedges, lacks, speculation, probe),
        features=(
            Feature(feature="late/311", label="might, may, could", label_source="human", heat=heat_on(texts, tokens, {"may": 3.02})),
            Feature(feature="late/1203", label="probably", label_source="gpt-4o-mini", heat=heat_on(texts, tokens, {"probably": 2.31})),
            Feature(feature="late/17", label="organs", label_source="gpt-4o-mini", heat=medicine),
        ),
        groups=(
            Group(name="medical knowledge", indicator="medicine", features=7, of=12, words=("creatinine", "dialysis", "kidney")),
            Group(name="law", indicator="law", features=1, of=9, words=("need",)),
        ),
        saes=(
            SaeExplained(
                sae="late",
                hookpoint="blocks.20.hook_resid_post",
                d_sae=16384,
                segments=tuple(
                    SegmentFeatures(segment=name, features=seen, unexplained=value)
                    for name, value in (("history", 0.48), ("prompt", 0.51), ("response", 0.56))
                ),
                tokens=features,
                unexplained=share,
                l0=61.4,
            ),
        ),
        hedging_by="hedging",
        sentences=sentences_of(texts),
        sentences_note="Expected or not is told against the sentences of 1,200 benign pairs.",
        ablations=(
            Ablation(
                indicator="speculation",
                features=("late/311", "late/1203"),
                controls=20,
                removed=0.07,
                changes=(
                    Change(name="response log-probability", before=-1.92, after=-2.31, random_mean=-1.95, random_low=-2.02, random_high=-1.9, beyond_random=True),
                    Change(name="hedging", before=1.3, after=-0.9, random_mean=1.27, random_low=1.1, random_high=1.44, beyond_random=True),
                    Change(name="no_support", before=0.61, after=0.62, random_mean=0.6, random_low=0.55, random_high=0.66, beyond_random=False),
                ),
                words=(WordChange(text=2, start=RESPONSE.index("may"), end=RESPONSE.index("may") + 3, change=-2.4),),
                conclusion="Without these features the reader expects the answer's words less, more so than without random ones: they do something.",
            ),
        ),
        deletion=Deletion(
            turned=True,
            words=tuple(Span(text=2, start=RESPONSE.index(word), end=RESPONSE.index(word) + len(word)) for word in ("probably", "may")),
            scored=41,
            verdict="pass",
            conclusion="Without 2 of its 46 words the answer would have passed.",
        ),
        coverage=CoverageExplained(
            tokens=n,
            prompt_tokens=sum(texts[at].segment == "prompt" for at in tokens.text),
            response_tokens=sum(texts[at].segment == "response" for at in tokens.text),
            history_tokens=sum(texts[at].segment == "history" for at in tokens.text),
        ),
        provenance=PROVENANCE,
        label_note="Labels by gpt-4o-mini were written by a machine and may be wrong.",
    )  # fmt: skip


def plain(prompt: str = "Hello", response: str = "Hello! The lake is blue.", **more: object) -> Explanation:
    """A pair that passed, with one indicator, no head and no card."""
    texts = (Text(segment="prompt", text=prompt), Text(segment="response", text=response))
    tokens = tokens_of(texts, logprobs=False)
    values: dict[str, object] = {
        "request_id": "req-1",
        "verdict": "pass",
        "summary": "Nothing that is watched for was found in this answer.",
        "trust": ("No flag is no proof that the answer is right.",),
        "texts": texts,
        "tokens": tokens,
        "indicators": (
            indicator("hedging", -1.0, [term("late/1", 0.25, 0.5)], threshold=0.5, calibrated=False,
                      heat=heat_on(texts, tokens, {"blue": 0.25})),
        ),
        "sentences_note": "The reader's head is not loaded, so it is not known what it expected.",
        "coverage": CoverageExplained(
            tokens=len(tokens.text), prompt_tokens=tokens.text.count(0), response_tokens=tokens.text.count(1),
            history_tokens=0,
        ),
        "provenance": PROVENANCE,
    }  # fmt: skip
    return Explanation.model_validate(values | more)


HOSTILE = (
    "</title></style></script></svg></bdi><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<style>*{display:none}</style><meta http-equiv=refresh content='0;url=https://example.org'>'\"&{{ 7*7 }}{% raw %}"
    "\u202ereversed\u202c \u2066isolated\u2069 \x00\x1b[31m\u200b\ufeff\u0301\u0301 \U0001f469\u200d\U0001f52c\U0001f9d1\U0001f3fd \u2028]]>--><!--"
)


_KEPT = {"verdict", "segment", "kind", "severity", "quadrant", "relation", "text", "name", "indicator"}
"""Fields that are no free text, and those by which parts find each other."""


def _spoilt(value: object, key: str = "") -> object:
    """A value in which every free text is hostile."""
    match value:
        case str():
            return HOSTILE if value and key not in _KEPT else value
        case {"late": _}:
            return {HOSTILE: HOSTILE}
        case dict():
            return {name: _spoilt(one, name) for name, one in value.items()}
        case list() | tuple():
            return [_spoilt(one, key) for one in value]
    return value


def hostile() -> Explanation:
    """A pair all of whose texts, names and sentences are hostile."""
    made = flagged().model_dump()
    texts = tuple(Text(**(text | {"text": HOSTILE, "role": "user" if text["role"] else ""})) for text in made["texts"])
    tokens = tokens_of(texts)
    n = len(tokens.text)
    changed = _spoilt(made)
    assert isinstance(changed, dict)
    changed |= {"texts": texts, "tokens": tokens}
    heat = Heat(token=tuple(range(0, n, 2)), value=tuple(1.0 + at for at in range(0, n, 2)))
    for one in (*changed["indicators"], *changed["features"]):
        one["heat"] = heat
    for sae in changed["saes"]:
        sae["tokens"] = [{"feature": [17, 311], "activation": [2.0, 1.0]}] * n
        sae["unexplained"] = [0.5] * n
    for group in changed["groups"]:
        group["name"] = HOSTILE
    for indicator_ in changed["indicators"]:
        indicator_["name"] = f"{indicator_['name']}{HOSTILE}"
    for sentence in changed["sentences"]:
        sentence |= {"start": 0, "end": len(HOSTILE)}
    return Explanation.model_validate(changed)


def huge(letters: str = "<", length: int = 1_000_000, read: int = 40_000) -> Explanation:
    """A pair of a long text, of which the first tokens were read, each of one character."""
    response = (letters * (length // len(letters) + 1))[:length]
    texts = (Text(segment="prompt", text=response), Text(segment="response", text=response))
    places = tuple(range(read))
    tokens = Tokens(
        text=(0,) * read + (1,) * read,
        start=places * 2,
        end=tuple(at + 1 for at in places) * 2,
        logprob=(-1.25,) * (2 * read),
    )
    many = tuple(range(read, 2 * read))
    heat = Heat(token=many, value=tuple(0.001 + at % 977 for at in range(read)))
    fired = TokenFeatures(feature=tuple(range(60000, 60008)), activation=(3.25,) * 8)
    sentences = tuple(
        Sentence(text=1, start=at, end=at + 20, hedged=False, surprising=True, quadrant="check_first")
        for at in range(0, read, 20)
    )
    return Explanation(
        request_id="x" * 100_000,
        verdict="incomplete",
        incomplete=("the response was cut",),
        summary="The answer was too long to be read whole.",
        trust=("Not all of the answer was read.",),
        texts=texts,
        tokens=tokens,
        indicators=tuple(indicator(f"i{at}", 0.5, [term(f"late/{k}", 1.0, 0.1, "l" * 200) for k in range(300)], heat=heat) for at in range(12)),
        features=tuple(Feature(feature=f"late/{at}", label="l" * 200, heat=heat) for at in range(100)),
        saes=tuple(
            SaeExplained(sae=f"sae{at}", hookpoint="h", d_sae=65536, tokens=(fired,) * (2 * read), unexplained=(0.875,) * (2 * read),
                         segments=(SegmentFeatures(segment="response", unexplained=0.875),))
            for at in range(2)
        ),
        sentences=sentences,
        deletion=Deletion(turned=False, words=tuple(Span(text=1, start=at, end=at + 1) for at in range(0, 4000, 2)), conclusion="It did not turn."),
        coverage=CoverageExplained(tokens=2 * read, prompt_tokens=read, response_tokens=read, history_tokens=0, truncated=True),
        provenance=PROVENANCE,
    )  # fmt: skip


def empty() -> Explanation:
    """A pair of which nothing was read, by a watchlist without indicators."""
    return plain("", "", indicators=(), trust=())
