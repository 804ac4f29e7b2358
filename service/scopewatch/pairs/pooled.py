"""The pooled features of pairs on disk: pairs are read once, and every pooling of every feature is kept.

A shard holds 128 pairs, in a folder named by what made it (engine, segment, poolings) and under the digest of the
pairs' tokens. So an interrupted command goes on where it stopped, and another file, tokenizer or setting finds nothing
of it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.errors import DataError, EngineError, InvalidRequest
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.kept_poolings import DENSE_POOLINGS, POOLINGS
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.scored import failure
from scopewatch.pairs.shards import array_of, is_whole, unwritable_folder, write_shard
from scopewatch.pairs.spelled import is_spelled
from scopewatch.pipeline.pooling import pool
from scopewatch.sentences import SegmentSentences
from scopewatch.statistics.scores import Bool, Rows
from scopewatch.types import Activations, Segment, TokenisedPair
from scopewatch.watch.poolings import Pooling

try:
    from scipy.sparse import csr_array, vstack
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None

_SCHEMA = 3
_SHARD_PAIRS = 128
_DENSE_ELEMENTS = 4 << 20
_FEW_SPELLED = 0.05
Float32 = NDArray[np.float32]
_Tokenised = TokenisedPair | InvalidRequest


@dataclass(frozen=True, slots=True)
class PooledPairs:
    """The pooled features of n pairs, made by `encode_pairs`."""

    n_pairs: int
    d_sae: int
    poolings: tuple[Pooling, ...]
    tokens: NDArray[np.int32]
    """How many tokens of each pair's segment were read, shape (n,); every feature of a pair without any is 0, and the
    pair is one of those left out."""
    truncated: Bool
    """Whether the reader did not read the pair whole, shape (n,)."""
    shards: tuple[Path, ...]
    """The files that hold the pooled values, in the order of the pairs."""
    left_out: tuple[LeftOut, ...] = ()
    """The pairs that could not be read, or have no token in the segment; they keep their rows."""
    spelled: int = 0
    """How many pairs the reader reads by parts of characters, since its vocabulary lacks their script."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentence that says how many pairs are in a script that the reader does not read, if not a few are."""
        if self.spelled <= _FEW_SPELLED * self.n_pairs:
            return ()
        told = (
            f"{self.spelled:,} of {self.n_pairs:,} pairs are in a script that the reader's vocabulary lacks: it reads "
            "them by parts of characters, and what its features say of them is worth little."
        )
        return (told,)

    def dense(self, pooling: Pooling) -> Float32:
        """The reader's activations at the hookpoint by one of `DENSE_POOLINGS`, shape (n, d_in).

        Raises:
            DataError: A shard is gone or damaged.
        """
        name = f"dense_{DENSE_POOLINGS.index(pooling)}"
        return np.concatenate([array_of(shard, name) for shard in self.shards])

    def features(self, pooling: Pooling, rows: Rows | None = None) -> csr_array:
        """Every feature by one of the poolings, shape (n, d_sae), float32; only values greater than 0 are stored.

        Args:
            pooling: One of the poolings that were kept.
            rows: The rows that are wanted, ascending; None for all.

        Raises:
            DataError: A shard is gone or damaged.
        """
        name, rows = f"value_{self.poolings.index(pooling)}", np.arange(self.n_pairs) if rows is None else rows
        parts = [csr_array((0, self.d_sae), dtype=np.float32)]
        for number in np.unique(rows // _SHARD_PAIRS).tolist():
            shard = self.shards[number]
            indptr = np.concatenate([[0], np.cumsum(array_of(shard, "fired"))])
            shape = len(indptr) - 1, self.d_sae
            whole = csr_array((array_of(shard, name), array_of(shard, "indices"), indptr), shape=shape)
            parts.append(whole[rows[rows // _SHARD_PAIRS == number] % _SHARD_PAIRS])
        matrix = csr_array(vstack(parts, format="csr"))
        matrix.eliminate_zeros()
        return matrix


class StoredFeatures(Mapping[Pooling, csr_array]):
    """The pooled features of some rows, by the pooling: each is read from disk whenever it is asked for.

    All of them together may be more than memory holds.

    Args:
        pooled: What was made of the pairs.
        rows: The rows that are wanted, ascending.
        poolings: The poolings that are wanted; none for all that were kept.
    """

    def __init__(self, pooled: PooledPairs, rows: Rows, poolings: Sequence[Pooling] = ()) -> None:
        self._pooled, self._rows, self._poolings = pooled, rows, tuple(poolings) or pooled.poolings

    def __getitem__(self, pooling: Pooling) -> csr_array:
        return self._pooled.features(pooling, self._rows)

    def __iter__(self) -> Iterator[Pooling]:
        return iter(self._poolings)

    def __len__(self) -> int:
        return len(self._poolings)


def encode_pairs(
    pairs: Sequence[LabelledPair],
    dictionary: DictionaryEngine,
    *,
    segment: Segment,
    folder: Path,
    poolings: Sequence[Pooling] = POOLINGS,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> PooledPairs:
    """Reads pairs and pools every feature over one segment of each, as `pipeline.scoring.pool` does.

    Args:
        pairs: The pairs to read, at least one.
        dictionary: The reader and the SAE.
        segment: The part of a pair that is pooled.
        folder: The folder in which shards are found and left; it is made if it is not there.
        poolings: The poolings that are kept.
        reading: Whether a pair that cannot be read may be left out.

    Raises:
        DataError: The folder cannot be written; or with `strict` a pair that cannot be read.
        EngineDied: The device is lost.
    """
    home = _home(folder, dictionary, segment, poolings)
    shards: list[Path] = []
    left_out: list[LeftOut] = []
    spelled = 0
    with tqdm(total=len(pairs), desc="reading", unit="pair", disable=None) as progress:
        for start in range(0, len(pairs), _SHARD_PAIRS):
            part = pairs[start : start + _SHARD_PAIRS]
            tokens = dictionary.tokeniser.tokenise([item.pair for item in part])
            shards.append(home / f"{_digest(tokens, segment)}.npz")
            if not is_whole(shards[-1]):
                write_shard(shards[-1], _shard(tokens, dictionary, segment, poolings))
            left_out += _left_out(part, tokens, shards[-1], reading)
            spelled += sum(is_spelled(pair, segment) for pair in tokens if isinstance(pair, TokenisedPair))
            progress.update(len(part))
    tokens_read, truncated = (
        np.concatenate([array_of(shard, name) for shard in shards]) for name in ("tokens", "truncated")
    )
    return PooledPairs(
        n_pairs=len(pairs),
        d_sae=dictionary.d_sae,
        poolings=tuple(poolings),
        tokens=tokens_read,
        truncated=truncated,
        shards=tuple(shards),
        left_out=tuple(left_out),
        spelled=spelled,
    )


def _left_out(
    part: Sequence[LabelledPair], tokens: Sequence[_Tokenised], shard: Path, reading: Reading
) -> Iterator[LeftOut]:
    """The pairs of a shard that could not be read, or have no token in the segment."""
    for item, refused, failed, n in zip(
        part, tokens, array_of(shard, "failed"), array_of(shard, "tokens"), strict=True
    ):
        if isinstance(refused, InvalidRequest):
            yield reading.checked(failure(item.place, refused))
        elif failed:
            yield reading.checked(failure(item.place, EngineError(str(failed))))
        elif not n:
            yield LeftOut(item.place, "empty_segment")


def _home(folder: Path, dictionary: DictionaryEngine, segment: Segment, poolings: Sequence[Pooling]) -> Path:
    """The folder, made where it is not there, of the shards that this dictionary, segment and poolings make."""
    made_by = [_SCHEMA, dictionary.digest, segment.name, [str(pooling) for pooling in poolings]]
    home = folder / hashlib.sha256(json.dumps(made_by).encode()).hexdigest()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable_folder(folder, error) from None
    return home


def _shard(
    tokens: Sequence[_Tokenised], dictionary: DictionaryEngine, segment: Segment, poolings: Sequence[Pooling]
) -> dict[str, NDArray[Any]]:
    """The arrays of a shard: some per pair, and, pair after pair, the features that fired and their pooled values."""
    counts, failed, truncated = np.zeros(len(tokens), np.int32), [""] * len(tokens), np.zeros(len(tokens), bool)
    dense = np.zeros((len(DENSE_POOLINGS), len(tokens), dictionary.d_in), np.float32)
    indices: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(tokens)
    values: list[Float32] = [np.empty((len(poolings), 0), np.float32)] * len(tokens)
    good = {row: pair for row, pair in enumerate(tokens) if isinstance(pair, TokenisedPair)}
    outcomes = dictionary.encode(list(good.values()), segment, features=bool(poolings))
    for (row, pair), read in zip(good.items(), outcomes, strict=True):
        truncated[row] = pair.coverage.truncated
        if isinstance(read, EngineError):
            failed[row] = str(read)
            continue
        counts[row] = len(read.positions)
        sentences = SegmentSentences(pair, segment)
        indices[row], values[row] = _pooled(read.fired, poolings, sentences)
        if len(read.positions):
            residual = read.residual.astype(np.float64)
            dense[:, row] = [pool(pooling, residual, sentences) for pooling in DENSE_POOLINGS]
    return {
        "tokens": counts,
        "truncated": truncated,
        "failed": np.array(failed),
        **{f"dense_{number}": rows for number, rows in enumerate(dense)},
        "fired": np.array([len(features) for features in indices]),
        "indices": np.concatenate(indices),
        **{f"value_{number}": np.concatenate(column) for number, column in enumerate(zip(*values, strict=True))},
    }


def _pooled(
    fired: Activations, poolings: Sequence[Pooling], sentences: SegmentSentences
) -> tuple[NDArray[np.int32], Float32]:
    """The features that fired, ascending, and their values by each pooling, shape (n_poolings, n_features)."""
    features, column = np.unique(fired.column, return_inverse=True)
    pooled = np.empty((len(poolings), len(features)), np.float32)
    step = max(1, _DENSE_ELEMENTS // max(1, fired.n_tokens))
    for start in range(0, len(features), step):
        here = slice(start, start + step)
        mine = (column >= start) & (column < start + step)
        # Features lie one after the other, as the online scorer takes them out of its table: the order of summation,
        # and so the last bit, is the same.
        dense = np.zeros((len(features[here]), fired.n_tokens)).T
        dense[fired.token[mine], column[mine] - start] = fired.value[mine]
        for number, pooling in enumerate(poolings):
            pooled[number, here] = pool(pooling, dense, sentences)
    return features, pooled


def _digest(tokens: Sequence[_Tokenised], segment: Segment) -> str:
    total = hashlib.sha256()
    for pair in tokens:
        if isinstance(pair, InvalidRequest):
            total.update(b"refused")
            continue
        total.update(len(pair.ids).to_bytes(8, "little") + bytes([pair.coverage.truncated]))
        total.update(pair.ids.astype("<i4").tobytes() + pair.segments.tobytes() + repr(pair.window_tokens).encode())
        # Where sentences end is not in the tokens: a caller may give them with a text of its own.
        total.update(SegmentSentences(pair, segment).last_tokens.astype("<i4").tobytes())
    return total.hexdigest()
