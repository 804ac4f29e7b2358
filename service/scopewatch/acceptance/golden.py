"""Compares an SAE with golden data: what its features did on given tokens in an activations export of Neuronpedia.

A row of an export holds `modelId`, `layer` (the source), `index`, `tokens` (text) and `values` (one per token,
activation x norm of the decoder row); see export-data.py in hijohnnylin/neuronpedia.
"""

import gzip
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from transformers import PreTrainedTokenizerFast

from scopewatch.acceptance.text_windows import Window, activations, window_of
from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.errors import DataError
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader
from scopewatch.sae.weights import Sae

_ROWS = 256
"""The least number of rows that are kept of an export that has more."""
_Index = Annotated[int, Field(ge=0), BeforeValidator(lambda value: int(value) if str(value).isdecimal() else value)]


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True, allow_inf_nan=False)

    model: str = Field("", alias="modelId")
    source: str = Field("", alias="layer")
    index: _Index
    tokens: list[str] = Field(min_length=1)
    values: list[float]

    @model_validator(mode="after")
    def _is_of_use(self) -> "_Row":
        if len(self.tokens) != len(self.values):
            raise ValueError(f"{len(self.tokens)} tokens, but {len(self.values)} values")
        if self.model == "gemma-2-2b" and self.source.endswith("-gemmascope-transcoder-16k"):
            # apps/inference/scripts/gemma_transcoder_hook_check.py in hijohnnylin/neuronpedia.
            raise ValueError(
                f"the activations of {self.model}/{self.source} are no golden data: they were made from the raw "
                "residual stream, which these transcoders do not read"
            )
        return self


@dataclass(frozen=True, slots=True)
class Golden:
    """An activations export."""

    file: Path
    """JSON lines, gzipped or not."""
    tolerance: float = 0.05
    """The deviation that is accepted, see `Agreement.agrees`; exports were often made in bfloat16, which alone makes a
    few percent.
    """


@dataclass(frozen=True, slots=True)
class FeatureAgreement:
    """How one feature's activations here agree with the exported ones."""

    index: int
    tokens: int
    """The number of tokens compared."""
    correlation: float
    """Pearson's, over these tokens."""
    deviation: float
    """The largest difference on a token where both fire, as a share of the feature's largest exported value; 1 if there
    is no such token.
    """


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an SAE agrees with an export."""

    rows: int
    """The number of rows compared."""
    skipped_rows: int
    """The number of rows with tokens that this tokenizer does not have."""
    tolerance: float
    """The deviation that is accepted, see `agrees`."""
    features: tuple[FeatureAgreement, ...]

    @property
    def worst(self) -> FeatureAgreement:
        return max(self.features, key=lambda feature: max(feature.deviation, 1 - feature.correlation))

    @property
    def agrees(self) -> bool:
        """Whether each feature deviates, and its correlation misses 1, by no more than the tolerance."""
        return max(self.worst.deviation, 1 - self.worst.correlation) <= self.tolerance


def compare_with_export(
    golden: Golden, sae: Sae, hookpoint: Hookpoint, *, reader: Reader, tokenizer: PreTrainedTokenizerFast
) -> Agreement:
    """Compares 256 to 512 rows spread evenly over the export, or all if there are fewer.

    Position 0, special tokens and features that fire nowhere in these rows are left out.

    Args:
        golden: The export.
        sae: The SAE that it should be of.
        hookpoint: Where the SAE reads.
        reader: The reader, loaded down to the hookpoint.
        tokenizer: The reader's tokenizer.

    Raises:
        DataError: The file cannot be read, or nothing in it can be compared.
        SaeError: The export has a feature that the SAE has not.
    """
    file, rows = golden.file, _read(golden.file)
    ids_of = _Vocabulary(tokenizer)
    known = [(row, ids) for row in rows if (ids := ids_of(row.tokens)) is not None]
    if not known:
        raise DataError(f"{file}: each row has tokens that this reader's tokenizer lacks; it is of another model")
    windows = [window_of(ids, tokenizer, reader.context) for _, ids in known]
    ours = _activations_here(sae, [row.index for row, _ in known], windows, hookpoint, reader)
    theirs = [
        # Here BOS was put in front of tokens that do not begin with it.
        np.array([0.0, *row.values] if window.ids[0] != ids[0] else row.values)[: len(window.ids)][window.counted]
        for (row, ids), window in zip(known, windows, strict=True)
    ]
    compared = _agreements([row.index for row, _ in known], ours, theirs)
    if not compared:
        raise DataError(f"{file}: no feature fires in it, so there is nothing to compare")
    return Agreement(len(known), len(rows) - len(known), golden.tolerance, compared)


@torch.inference_mode()
def _activations_here(
    sae: Sae, indices: Sequence[int], windows: Sequence[Window], hookpoint: Hookpoint, reader: Reader
) -> list[NDArray[np.float64]]:
    """For each window, what one feature does on its counted tokens, in the export's units."""
    features = sorted(set(indices))
    encode = HookpointEncoder([sae.encoder(features)]).to(reader.device)
    worth = _worth(sae, features)
    found: list[NDArray[np.float64]] = []
    for index, window in zip(indices, windows, strict=True):
        column = features.index(index)
        fired = encode(activations(reader, [window], [hookpoint])[hookpoint])[:, column]
        found.append(fired.double().cpu().numpy() * worth[column])
    return found


def _agreements(
    indices: Sequence[int], ours: Sequence[NDArray[np.float64]], theirs: Sequence[NDArray[np.float64]]
) -> tuple[FeatureAgreement, ...]:
    """How the features that fire in an export agree, by index; each row of it is of one feature."""
    rows = defaultdict[int, list[int]](list)
    for row, index in enumerate(indices):
        rows[index].append(row)
    agreements = (
        _agreement(index, *(np.concatenate([values[row] for row in own]) for values in (ours, theirs)))
        for index, own in sorted(rows.items())
    )
    return tuple(agreement for agreement in agreements if agreement)


def _agreement(feature: int, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> FeatureAgreement | None:
    """How one feature agrees; None if it fires nowhere in the export."""
    if not (theirs > 0).any():
        return None
    both = (ours > 0) & (theirs > 0)
    deviation = float(np.abs(ours - theirs)[both].max() / theirs.max()) if both.any() else 1.0
    centred = ours - ours.mean(), theirs - theirs.mean()
    lengths = float(np.linalg.norm(centred[0]) * np.linalg.norm(centred[1]))
    correlation = float(centred[0] @ centred[1]) / lengths if lengths else 0.0
    return FeatureAgreement(feature, len(ours), correlation, deviation)


def _worth(sae: Sae, features: Sequence[int]) -> NDArray[np.float64]:
    """What Neuronpedia multiplies activations by: the norm of what an activation of 1 adds to the reconstruction."""
    if sae.W_dec is None:
        return np.ones(len(features))
    if sae.gain_scale is not None and not sae.gain_only_decides:
        return np.full(len(features), 1 / (sae.gain_scale * sae.scale_out))
    rows = sae.W_dec.rows(np.array(features, np.intp)).astype(np.float64)
    worth: NDArray[np.float64] = np.linalg.norm(rows, axis=1) / sae.scale_out
    return worth


class _Vocabulary:
    """Finds token ids by what exports write for tokens: the vocabulary's own spelling, or the text of the token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._own: Mapping[str, int] = tokenizer.get_vocab()
        self._read: dict[str, int] = {}

    def __call__(self, tokens: Sequence[str]) -> list[int] | None:
        """The ids of some tokens; None if one of them is not in the vocabulary."""
        if not self._read and any(token not in self._own for token in tokens):
            for own, index in self._own.items():
                text = self._tokenizer.convert_tokens_to_string([own])
                self._read.setdefault(text, index)
                self._read.setdefault(text.replace("\n", "\\n"), index)
        ids = [self._own.get(token, self._read.get(token)) for token in tokens]
        return None if None in ids else [index for index in ids if index is not None]


def _read(file: Path) -> list[_Row]:
    """All rows of a short export, or evenly spaced ones of a long one: every second is dropped where there are many."""
    rows: list[_Row] = []
    number, step = 0, 1
    try:
        with file.open("rb") as raw:
            gzipped = raw.peek(2)[:2] == b"\x1f\x8b"
            for number, line in enumerate(gzip.GzipFile(fileobj=raw) if gzipped else raw, 1):
                if number % step == 0:
                    rows.append(_Row.model_validate_json(line))
                if len(rows) > 2 * _ROWS:
                    rows, step = rows[1::2], 2 * step
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{file}:{number + 1}: damaged gzip data: {error}") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "row"
        raise DataError(f"{file}:{number}: {place}: {problem['msg'].removeprefix('Value error, ')}") from None
    if not rows:
        raise DataError(f"{file}: holds no rows")
    return rows
