"""One task of the sparse-probing benchmark: its texts read, calibrated on and measured.

Two thirds of the texts fit every detector, as `scopewatch calibrate --held-out` parts them, and the rest measures all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from threadpoolctl import threadpool_limits
from transformers import AutoTokenizer

from probing_tasks import Example, examples
from published_probes import dense_regression, sparse_regression
from scopewatch.calibration.calibrate import calibrate, text_detectors
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import Config
from scopewatch.engine.dictionary import DictionaryEngine, build_dictionary
from scopewatch.errors import Unsupported
from scopewatch.pairs.labelled import LabelledPair, Labels, labels_of, parse_row
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Scores
from scopewatch.types import Segment
from scopewatch.watch.poolings import Pooling

HELD_OUT = 1 / 3
"""The share of the texts that measures."""
LAST = Pooling(kind="last")


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides a task's numbers."""

    data: Path
    reader: Path
    sae: Path
    hookpoint: str
    rows: int
    """The most texts of a task."""
    max_tokens: int
    """The most tokens of a text; the last ones are read."""


@cache
def opened(settings: Settings) -> tuple[DictionaryEngine, Any]:
    """The reader with the SAE, and the reader's tokenizer."""
    config = Config(torch_threads=1, max_tokens=max(16, settings.max_tokens + 8))
    sae = SaeSource(path=str(settings.sae), hookpoint=settings.hookpoint)
    dictionary = build_dictionary(ReaderSource(path=str(settings.reader)), sae, config)
    return dictionary, AutoTokenizer.from_pretrained(settings.reader)


def pairs_of(task: str, texts: Sequence[Example], tokenizer: Any, max_tokens: int) -> list[LabelledPair]:
    """The texts as pairs whose response is the end of the text, given as tokens, which no chat template surrounds.

    What stands before it is BOS and a line break: without the latter SmolLM2's attention sinks in the first word of one
    text in thirty, whose activations then are a hundred times as large as any other's.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = bos + tokenizer("\n", add_special_tokens=False)["input_ids"]
    pairs = []
    for line, example in enumerate(texts, 1):
        encoded = tokenizer(example.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, starts = encoded["input_ids"][-max_tokens:], encoded["offset_mapping"][-max_tokens:]
        row = {"response": example.text[starts[0][0] :], "label": example.label}
        row |= {"prompt_token_ids": before, "response_token_ids": ids}
        pairs.append(parse_row(row, line, task, labels=Labels.NEEDED))
    return pairs


def measured(task: str, settings: Settings) -> dict[str, Any]:
    """The AUROC of every detector on the held-out texts of a task, and how many texts and tokens were read."""
    dictionary, tokenizer = opened(settings)
    pairs = pairs_of(task, examples(settings.data, task, settings.rows), tokenizer, settings.max_tokens)
    labels = labels_of(pairs)
    with TemporaryDirectory() as folder, threadpool_limits(1):
        pooled = encode_pairs(pairs, dictionary, segment=Segment.RESPONSE, folder=Path(folder))
        parts = split(pairs, HELD_OUT, pooled.tokens > 0)
        scores, refused = calibrated(pairs, pooled, parts)
        fit, out = parts.fit, parts.held_out
        residuals, features = pooled.dense(LAST), pooled.features(LAST)
        scores["last_token"] = dense_regression(residuals[fit], labels[fit], residuals[out])
        scores["sae_probe"] = sparse_regression(features[fit], labels[fit], features[out])
    return {
        "auroc": {name: round(auroc(labels[out], values), 4) for name, values in scores.items()},
        "fitted": len(fit),
        "held_out": len(out),
        "tokens": int(pooled.tokens.sum()),
        "refused": refused,
    }


def calibrated(pairs: Sequence[LabelledPair], pooled: PooledPairs, parts: Split) -> tuple[dict[str, Scores], str]:
    """The held-out scores of all detectors by name, and in a sentence why the features gave no indicator, if so.

    Where `calibrate` finds no signal in the features, it still tells their scores beside a dense probe; where there is
    none in the probe either, only those of the detectors that see the text.
    """
    refused = ""
    for kind, own in (("features", "sae_features"), ("probe", "dense_probe")):
        try:
            evidence = calibrate(pairs, pooled, Wanted(kind=kind, held_out=HELD_OUT, force=True)).evidence
        except Unsupported as why:
            refused = refused or str(why)
        else:
            others = {name: each.scores for name, each in evidence.alternatives.items()}
            return {own: evidence.scores, **others}, refused
    return text_detectors(pairs, parts), refused
