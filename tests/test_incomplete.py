"""Verdicts of what was not read whole, of several readings, and of characters that hide letters."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import activations, covered, engine_identity, watchlist_of
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.types import Activations, Coverage, Segment, TokenisedPair
from scopewatch.verdicts import Judgement, Verdict

ENGINE = engine_identity(res=(2, 3))
ON_RESPONSE = {"features": [{"feature": "res/2"}]}
ON_PROMPT = {"features": [{"feature": "res/2"}], "segment": "prompt"}
FULL = Coverage(4, 1, 2, 0)


def read(coverage: Coverage = FULL, segments: tuple[int, ...] = (0, 1, 2, 2), **more: Any) -> TokenisedPair:
    n = len(segments)
    places = np.arange(n, dtype=np.int32)
    return TokenisedPair(
        places, np.array(segments, np.int8), np.zeros(n, np.int32), places, places + 1, coverage, **more
    )


def judged(
    *indicators: dict[str, Any], tokens: TokenisedPair | None = None, fired: Activations | None = None
) -> Judgement:
    tokens = tokens or read()
    fired = fired or activations(len(tokens.ids))
    watchlist = compile_watchlist(watchlist_of(*indicators), ENGINE)
    return judge(watchlist, [tokens], [covered(fired, ENGINE)], max_evidence=9)


@pytest.mark.parametrize(
    ("coverage", "indicators", "reasons"),
    [
        pytest.param(FULL, [ON_RESPONSE, ON_PROMPT], (), id="all is read"),
        pytest.param(
            replace(FULL, response_tokens_dropped=3),
            [ON_RESPONSE],
            ("response: 3 of 5 tokens were not read",),
            id="the end of the response is cut",
        ),
        pytest.param(replace(FULL, prompt_tokens_dropped=3), [ON_RESPONSE], (), id="the prompt is cut, nobody asks"),
        pytest.param(
            replace(FULL, prompt_tokens_dropped=3),
            [ON_RESPONSE, ON_PROMPT | {"severity": "info"}],
            ("prompt: 3 of 4 tokens were not read",),
            id="the prompt is cut",
        ),
        pytest.param(
            replace(FULL, response_tokens=0, unscored=("response",)),
            [ON_RESPONSE, ON_PROMPT],
            ("response: none of its tokens could be scored",),
            id="special tokens only",
        ),
        pytest.param(
            replace(FULL, prompt_tokens=0, unscored=("prompt",)),
            [ON_RESPONSE, ON_PROMPT],
            ("prompt: none of its tokens could be scored",),
            id="a prompt of one token that is the first of all",
        ),
        pytest.param(
            replace(FULL, unlocated=("prompt", "history[1].content")),
            [ON_PROMPT],
            ("prompt: not found in what the chat template made of it",),
            id="the template wrote something else",
        ),
        pytest.param(replace(FULL, shortened=("prompt",)), [ON_PROMPT], (), id="the template left something out"),
        pytest.param(replace(FULL, prompt_tokens=0), [ON_PROMPT], (), id="there is no prompt"),
    ],
)
def test_pass_means_that_all_that_is_judged_was_read(
    coverage: Coverage, indicators: list[dict[str, Any]], reasons: tuple[str, ...]
) -> None:
    """A pair of which a judged text was not read whole is INCOMPLETE, with the reason; others pass."""
    judgement = judged(*indicators, tokens=read(coverage))

    assert ((Verdict.INCOMPLETE if reasons else Verdict.PASS), reasons) == (judgement.verdict, judgement.incomplete)


def test_a_flag_is_a_flag_however_much_was_read() -> None:
    """What was read and flags the pair flags it; what is missing is told all the same."""
    tokens = read(replace(FULL, response_tokens_dropped=3))

    judgement = judged(ON_RESPONSE, tokens=tokens, fired=activations(4, (2, 0, 1.0)))

    assert (Verdict.FLAG, 1) == (judgement.verdict, len(judgement.incomplete))


def test_of_several_readings_the_higher_score_counts() -> None:
    """Indicator by indicator, with its own evidence; coverage and fired features are the first reading's."""
    watchlist = compile_watchlist(watchlist_of(ON_RESPONSE, {"features": [{"feature": "res/3"}]}, ON_PROMPT), ENGINE)
    first, second = read(), read(replace(FULL, response_tokens=1), (0, 2, 2))
    fired = [activations(4, (2, 0, 1.0), (3, 1, 2.0)), activations(3, (1, 0, 3.0), (2, 1, 1.0))]

    judgement = judge(watchlist, [first, second], [covered(one, ENGINE) for one in fired], max_evidence=9)

    assert [3.0, 2.0, 0.0] == [score.score for score in judgement.indicators]
    assert [1, 3] == [score.evidence[0].start for score in judgement.indicators[:2]]
    assert "" == judgement.indicators[2].skipped_reason  # the cleaned prompt is empty, the plain one is scored
    assert (FULL, [0, 1]) == (judgement.coverage, judgement.fired.tolist())


@pytest.mark.parametrize(("share", "flagged"), [(0.0, False), (0.02, False), (0.021, True)])
def test_characters_that_hide_letters_can_be_an_indicator(share: float, flagged: bool) -> None:
    """Its score is their share of the segment's characters, flagged above the threshold like any other."""
    hidden = {"kind": "obfuscation", "threshold": 0.02, "severity": "low"}
    tokens = read(odd_shares={Segment.RESPONSE: share, Segment.PROMPT: 1.0})

    judgement = judged(ON_RESPONSE, hidden, tokens=tokens)

    assert (share, flagged) == (judgement.indicators[1].score, judgement.indicators[1].flagged)
    assert (Verdict.FLAG if flagged else Verdict.PASS) == judgement.verdict


def test_a_combination_may_count_hidden_letters_in() -> None:
    """An indicator of kind obfuscation is a part like any other."""
    both = {"kind": "combination", "combines": [{"indicator": "hidden", "weight": 100.0}]}
    tokens = read(odd_shares={Segment.RESPONSE: 0.5})

    judgement = judged({"name": "hidden", "kind": "obfuscation"}, both, tokens=tokens)

    assert 50.0 == judgement.indicators[1].score


def test_a_span_ends_where_the_template_put_a_later_part_first() -> None:
    """Tokens that follow each other in what was read and not in the text are two spans."""
    tokens = replace(
        read(segments=(0, 2, 2, 2)),
        starts=np.array([0, 10, 15, 0], np.int32),
        ends=np.array([0, 15, 20, 5], np.int32),
    )

    judgement = judged(ON_RESPONSE, tokens=tokens, fired=activations(4, (1, 0, 1.0), (2, 0, 2.0), (3, 0, 3.0)))

    assert [(0, 5), (10, 20)] == [(span.start, span.end) for span in judgement.indicators[0].evidence]
