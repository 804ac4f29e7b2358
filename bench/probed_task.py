"""One task of the sparse-probing benchmark: its texts read, calibrated on and measured.

Two thirds of the texts fit every detector, as `scopewatch calibrate --held-out` parts them, and the rest measures all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack
from threadpoolctl import threadpool_limits
from transformers import AutoTokenizer

from probing_tasks import Example, examples
from published_probes import dense_regression, sparse_regression
from scopewatch.calibration.calibrate import calibrate, text_detectors
from scopewatch.calibration.split import Split, split
from scopewatch.calibration.wanted import Wanted
from scopewatch.config import Config
from scopewatch.engine.dictionary import DictionaryEngine, SegmentActivations, build_dictionary
from scopewatch.errors import EngineError, Unsupported
from scopewatch.pairs.labelled import LabelledPair, Labels, labels_of, parse_row
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Scores
from scopewatch.types import Segment, TokenisedPair

HELD_OUT = 1 / 3
"""The share of the texts that measures."""


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


class LastTokens:
    """A dictionary engine that also keeps what stands at the last token of each pair it reads."""

    def __init__(self, dictionary: DictionaryEngine) -> None:
        self._dictionary = dictionary
        self._residuals: list[np.ndarray] = []
        self._features: list[csr_array] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dictionary, name)

    def encode(self, pairs: Sequence[TokenisedPair], segment: Segment, **kind: Any) -> Iterator[SegmentActivations]:
        for read in self._dictionary.encode(pairs, segment, **kind):
            if isinstance(read, EngineError):
                raise read
            last = read.fired.token == len(read.positions) - 1
            row, column = np.zeros(last.sum(), np.intp), read.fired.column[last]
            self._features.append(csr_array((read.fired.value[last], (row, column)), shape=(1, self.d_sae)))
            self._residuals.append(read.residual[-1])
            yield read

    @property
    def residuals(self) -> np.ndarray:
        """The reader's activations, shape (n_pairs, d_in)."""
        return np.stack(self._residuals)

    @property
    def features(self) -> csr_array:
        """What the SAE makes of them, shape (n_pairs, d_sae)."""
        return csr_array(vstack(self._features))


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
    labels, engine = labels_of(pairs), LastTokens(dictionary)
    with TemporaryDirectory() as folder, threadpool_limits(1):
        pooled = encode_pairs(pairs, engine, segment=Segment.RESPONSE, folder=Path(folder))
        parts = split(pairs, HELD_OUT, pooled.tokens > 0)
        scores, refused = calibrated(pairs, pooled, parts)
        fit, out = parts.fit, parts.held_out
        residuals, features = engine.residuals, engine.features
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
            wanted = Wanted(kind=kind, held_out=HELD_OUT, force=True)
            evidence = calibrate(pairs, pooled, wanted).evidence
        except Unsupported as why:
            refused = refused or str(why)
        else:
            return {
                own: evidence.scores,
                **{name: each.scores for name, each in evidence.alternatives.items()},
            }, refused
    return text_detectors(pairs, parts), refused
