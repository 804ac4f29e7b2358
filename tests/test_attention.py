"""Attention text by text: what the formula gives, whatever the lengths, windows, caps and beginnings."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scopewatch.reader.attention import Packed
from scopewatch.reader.packing import Packing
from scopewatch.reader.prefixes import BLOCK, Block, Reading
from scopewatch.types import Activations

WIDTH = 8
SCALING = 0.4
NOTHING = Activations(BLOCK, *[np.zeros(0, np.int32)] * 2, np.zeros(0, np.float32))


def formula(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, softcap: float | None
) -> NDArray[np.float64]:
    """Of a text's last queries (heads, n, width) to all its keys (kv_heads, total, width), in float64, masked densely."""
    repeats = query.shape[0] // key.shape[0]
    q, k, v = query.double(), key.double().repeat_interleave(repeats, 0), value.double().repeat_interleave(repeats, 0)
    logits = SCALING * q @ k.transpose(1, 2)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    total = key.shape[1]
    distance = torch.arange(total - query.shape[1], total)[:, None] - torch.arange(total)
    hidden = (distance < 0) | (distance >= (window or total))
    weights = torch.softmax(logits.masked_fill(hidden, -torch.inf), dim=-1)
    return (weights @ v).transpose(0, 1).numpy()


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 63, 64, 65, 130, 200])), min_size=1, max_size=4),
    window=st.sampled_from([None, 1, 2, 16, 64, 65, 100, 300]),
    softcap=st.sampled_from([None, 3.0]),
    heads=st.sampled_from([(4, 1), (4, 2), (3, 3)]),
    seed=st.integers(0, 1000),
)
def test_each_text_attends_as_if_alone(
    texts: list[tuple[int, int]], window: int | None, softcap: float | None, heads: tuple[int, int], seed: int
) -> None:
    """In a row of texts of any lengths, with any number of known blocks, each gets what the formula gives it alone."""
    torch.manual_seed(seed)
    own = sum(tokens for _, tokens in texts)
    query = 2 * torch.randn(1, heads[0], own, WIDTH)
    key, value = 2 * torch.randn(2, 1, heads[1], own, WIDTH)
    readings = [
        Reading(
            np.zeros(blocks * BLOCK + tokens, np.int32),
            (b"",) * blocks,
            [Block(((2 * torch.randn(heads[1], BLOCK, WIDTH), torch.randn(heads[1], BLOCK, WIDTH)),), NOTHING)]
            * blocks,
        )
        for blocks, tokens in texts
    ]
    packing = Packing(readings, [[]] * len(readings))

    found, _ = Packed()(
        SimpleNamespace(layer_idx=0),
        query,
        key,
        value,
        None,
        scaling=SCALING,
        packing=packing,
        sliding_window=window,
        softcap=softcap,
    )

    assert (1, own, heads[0], WIDTH) == found.shape
    for text in packing.texts:
        past = text.past(0)
        keys, values = (
            torch.cat([*(known[part] for known in past), whole[0, :, text.place]], dim=1)
            for part, whole in enumerate((key, value))
        )
        expected = formula(query[0, :, text.place], keys, values, window, softcap)
        np.testing.assert_allclose(found[0, text.place].numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_without_a_packing_every_row_is_a_text(window: int | None) -> None:
    """Plain batches, as `sae verify` runs them, are causal row by row."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 70, WIDTH)

    found, _ = Packed()(None, query, key, value, None, scaling=SCALING, sliding_window=window)

    for row in range(2):
        expected = formula(query[row], key[row], value[row], window, None)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=0, atol=2e-5)
