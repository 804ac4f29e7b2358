"""Pairs judged by small watchlists over a reader that only pretends, and what is explained of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from conftest import activations, engine_identity, watchlist_of
from scopewatch.engine.looks import Looked, SegmentTop
from scopewatch.explain.document import explained
from scopewatch.explanation import Explanation, IndicatorExplained
from scopewatch.identity import FeatureTable
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.scoring import judge
from scopewatch.pipeline.stages import Asked, Judged, Read, Tokenised
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.types import Activations, CoveredActivations, Pair, ScoreJob, Segment, TokenisedPair
from scopewatch.verdicts import Label, Timings
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist, lexicon_of
from spine import fire, read

ENGINE = engine_identity(early=(1, 4), late=(0,))
"""Three features, of which `spine.fire` makes one or two fire at every character."""
TABLE = FeatureTable(ENGINE.feature_ids)
HEADED = replace(ENGINE, head=True)
HEAD_TABLE = FeatureTable(HEADED.feature_ids)


def watched(*indicators: dict[str, Any], **changes: Any) -> Watchlist:
    """A watchlist with what its indicators of words count by."""
    made = watchlist_of(*indicators)
    words = {one.name: lexicon_of(one) for one in made.indicators if one.lexicon}
    return replace(made, **({"words": words} | changes))


def judged_of(
    watchlist: Watchlist,
    pair: Pair,
    readings: Sequence[TokenisedPair] = (),
    fired: Sequence[Activations] = (),
    *,
    labels: Mapping[Any, Label] | None = None,
    warnings: Mapping[str, str] | None = None,
) -> Judged:
    """A pair, read character by character unless it was read already, and judged as the spine does it."""
    compiled = compile_watchlist(watchlist, ENGINE, labels, warnings)
    readings = tuple(readings) or (read(pair),)
    fired = tuple(fired) or tuple(fire(tokens.ids) for tokens in readings)
    covered = tuple(CoveredActivations(one, TABLE) for one in fired)
    judgement = judge(compiled, readings, covered, max_evidence=0)
    asked = Asked(0, ScoreJob(pair, "", "the request"), compiled, b"", None)
    stage = Read(Tokenised(asked, readings, (b"",) * len(readings), 0.0), covered, (b"",), False, Timings())
    return Judged(stage, judgement, Timings())


def explained_of(judged: Judged, looked: Sequence[Looked] = (), **more: Any) -> Explanation:
    """What is explained of a judged pair."""
    watchlist = judged.asked.watchlist
    parts = {
        "predictions": None,
        "watchlists": WatchlistSet(3, ENGINE, {watchlist.source.name: watchlist}),
        "labels": lambda _sae, _features: {},
    }
    parts |= more
    return explained(judged, looked, parts.pop("predictions"), **parts)


def explain(pair: Pair, *indicators: dict[str, Any], looked: Sequence[Looked] = (), **more: Any) -> Explanation:
    """What is explained of a pair that a watchlist of some indicators judges."""
    return explained_of(judged_of(watched(*indicators), pair), looked, **more)


def told(explanation: Explanation, name: str) -> IndicatorExplained:
    """What is explained of one indicator."""
    return next(one for one in explanation.indicators if one.name == name)


def predicted(logprobs: Sequence[float]) -> CoveredActivations:
    """Predictions that give each token of a reading a log-probability."""
    column = HEADED.features.index(HEADED.features[-2])
    rows = [(token, column, value) for token, value in enumerate(logprobs) if value]
    return CoveredActivations(activations(len(logprobs), *rows), HEAD_TABLE)


def looked_at(tokens: TokenisedPair, **changes: Any) -> Looked:
    """What a whole SAE of 64 features makes of a pair: feature i on token i, and a second one on every other."""
    n = len(tokens.ids)
    feature = np.stack((np.arange(n) % 64, np.where(np.arange(n) % 2, 7, -1)), axis=1).astype(np.int32)
    value = np.where(feature >= 0, (2.0, 0.5), 0.0).astype(np.float32)
    top = SegmentTop(Segment.RESPONSE, np.array([4, 9]), np.float32([3, 2]), np.float32([1.5, 0.25]), np.array([5, 1]))
    made = Looked(
        "early",
        64,
        "layers.0.resid_post",
        feature,
        value,
        (top,),
        1.5,
        np.full(n, 0.25, np.float32),
        {Segment.RESPONSE: 0.25},
    )
    return replace(made, **changes)


def reference(n: int = 200, **changes: Any) -> dict[str, Any]:
    """A reference whose benign pairs score 0 to 10, evenly."""
    levels = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0]
    made = {
        "data": "benign.jsonl",
        "n": n,
        "score": [10 * level for level in levels],
        "ids": [f"pair {level}" for level in levels],
        "id_scores": [10 * level for level in levels],
    }
    return made | changes


def card(**changes: Any) -> dict[str, Any]:
    """A card that says nothing against its indicator."""
    measured = {
        "data": "held out",
        "n": 200,
        "n_positive": 50,
        "auroc": 0.9,
        "tpr": 0.6,
        "fpr": 0.05,
        "fpr_upper": 0.081,
    }
    made = {
        "date": "2026-11-30",
        "calibrated_on": "pairs",
        "n": 100,
        "confidence": 0.95,
        "measurements": [measured],
        "beats_bag_of_words": True,
        "beside_bag_of_words": "better",
    }
    return made | changes


def with_card(indicator: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An indicator with such a card, as it stands in a watchlist."""
    return Indicator.model_validate(
        {"name": "one", "threshold": 0.5} | indicator | {"card": card(**changes)}
    ).model_dump(exclude_defaults=True)
