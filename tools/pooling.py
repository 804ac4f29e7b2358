"""From per-token SAE activations to one number per feature: the poolings the service supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack, vstack

from activations import Reader, response_residuals
from corpus import Item
from scopewatch.indicators import Pooling
from scopewatch.pipeline.scoring import pool

Array = NDArray[np.float32]


POOLINGS = (
    Pooling(kind="max"),
    Pooling(kind="sum"),
    Pooling(kind="mean"),
    Pooling(kind="fraction_active"),
    Pooling(kind="rolling_mean_max", window=8),
    Pooling(kind="k_of_n", k=2),
)


def pooled(pooling: Pooling, activations: Array) -> Array:
    """The service's pooling, (tokens, features) -> (features,); zero for an empty segment."""
    if not len(activations):
        return np.zeros(activations.shape[1], np.float32)
    return pool(pooling, activations.astype(np.float64)).astype(np.float32)


@dataclass(frozen=True)
class SAE:
    """JumpReLU parameters as saved: W_enc (d_in, d_sae), b_enc and threshold (d_sae,)."""

    W_enc: Array
    b_enc: Array
    threshold: Array

    def encode(self, residuals: Array) -> Array:
        """(tokens, d_in) -> activations (tokens, d_sae)."""
        pre = residuals @ self.W_enc + self.b_enc
        return pre * (pre > self.threshold)


def load_sae(path: Path) -> SAE:
    """Read a `params.npz` of Gemma Scope's form."""
    with np.load(path) as saved:
        return SAE(saved["W_enc"], saved["b_enc"], saved["threshold"])


@dataclass(frozen=True)
class PooledSet:
    """Items and their poolings: `features[pooling]` (items, d_sae) sparse; `dense` (items, 2 d_in) mean- and max-pooled residuals."""

    items: list[Item]
    features: dict[Pooling, csr_matrix]
    dense: Array
    lengths: Array

    @property
    def labels(self) -> NDArray[np.int64]:
        """(items,) of 0 and 1."""
        return np.array([item.label for item in self.items])

    def where(self, keep: NDArray[np.bool_]) -> PooledSet:
        """The items with `keep` true."""
        chosen = np.flatnonzero(keep)
        return PooledSet(
            [self.items[i] for i in chosen],
            {p: m[chosen] for p, m in self.features.items()},
            self.dense[chosen],
            self.lengths[chosen],
        )

    def columns(self, poolings: Sequence[Pooling]) -> csr_matrix:
        """(items, len(poolings) * d_sae), pooling after pooling."""
        return hstack([self.features[p] for p in poolings], format="csr")


def join(sets: Sequence[PooledSet]) -> PooledSet:
    """All items of several sets, in order."""
    return PooledSet(
        [item for s in sets for item in s.items],
        {p: vstack([s.features[p] for s in sets], format="csr") for p in sets[0].features},
        np.concatenate([s.dense for s in sets]),
        np.concatenate([s.lengths for s in sets]),
    )


def pool_items(reader: Reader, sae: SAE, items: list[Item], poolings: Sequence[Pooling] = POOLINGS) -> PooledSet:
    """Read every item and pool its response tokens."""
    rows: dict[Pooling, list[csr_matrix]] = {p: [] for p in poolings}
    dense, lengths = [], []
    for states in response_residuals(reader, [(item.prompt, item.response) for item in items]):
        residuals = states.numpy()
        activations = sae.encode(residuals)
        active = np.flatnonzero((activations > 0).any(axis=0))
        compact = activations[:, active]
        for pooling in poolings:
            row = csr_matrix((pooled(pooling, compact), active, [0, len(active)]), shape=(1, activations.shape[1]))
            row.eliminate_zeros()
            rows[pooling].append(row)
        width = residuals.shape[1]
        empty = np.zeros(width, np.float32)
        dense.append(
            np.concatenate([residuals.mean(axis=0), residuals.max(axis=0)] if len(residuals) else [empty, empty])
        )
        lengths.append(len(residuals))
    return PooledSet(
        items,
        {p: vstack(r, format="csr") for p, r in rows.items()},
        np.array(dense, np.float32),
        np.array(lengths, np.float32),
    )
