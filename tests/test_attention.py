"""Attention text by text: what the formula gives, whatever the lengths, windows, caps and beginnings."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from scopewatch.reader.attention import Packed
from scopewatch.reader.packing import PackedText, Packing
from scopewatch.reader.pages import PagePool
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


def a_pool(pages: int, kv_heads: int) -> PagePool:
    """Pages of one layer with random keys and values; page 0 holds zeros."""
    shape = {"kv_heads": kv_heads, "head_dim": WIDTH, "layers": 1}
    page_bytes = 2 * 4 * BLOCK * kv_heads * WIDTH
    pool = PagePool(pages * page_bytes, **shape, dtype=torch.float32, device=torch.device("cpu"))
    assert pool.allocate()
    for held in (*pool.keys, *pool.values):
        held[1:] = 2 * torch.randn_like(held[1:])
    return pool


def a_row(texts: Sequence[tuple[int, int, int | None]]) -> list[Reading]:
    """Texts of (known blocks, own tokens, index of the text they go on from)."""
    readings: list[Reading] = []
    for blocks, tokens, parent in texts:
        before = readings[parent] if parent is not None else None
        known = [] if before else [Block(number, NOTHING) for number in range(1, blocks + 1)]
        length = (len(before.ids) if before else BLOCK * blocks) + tokens
        shared = any(index == len(readings) for *_, index in texts)
        readings.append(Reading(np.zeros(length, np.int32), (), known=known, parent=before, shared=shared))
    return readings


TREES = [
    [(0, 128, None), (0, 5, 0), (0, 64, 0), (0, 1, 2), (0, 70, 2), (0, 200, 0), (3, 30, None)],
    [(2, 64, None), (0, 64, 0), (0, 64, 1), (0, 130, 2), (0, 3, 2), (0, 9, 1), (0, 65, 0)],
    [(1, 63, None), (0, 64, None), (0, 64, 1), (0, 1, 2), (0, 2, 2)],
]


@settings(max_examples=80, deadline=None)
@given(
    texts=st.sampled_from(TREES)
    | st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from([1, 2, 63, 64, 65, 130, 200]), st.none()), min_size=1, max_size=4
    ),
    window=st.sampled_from([None, 1, 2, 16, 64, 65, 100, 300]),
    softcap=st.sampled_from([None, 3.0]),
    heads=st.sampled_from([(4, 1), (4, 2), (3, 3)]),
    seed=st.integers(0, 1000),
)
def test_each_text_attends_as_if_alone(
    texts: list[tuple[int, int, int | None]],
    window: int | None,
    softcap: float | None,
    heads: tuple[int, int],
    seed: int,
) -> None:
    """In a row of texts of any lengths, with any number of known blocks, and with beginnings in the row that they go on
    from, each gets what the formula gives it alone.
    """
    torch.manual_seed(seed)
    own = sum(tokens for _, tokens, _ in texts)
    query = 2 * torch.randn(1, heads[0], own, WIDTH)
    key, value = 2 * torch.randn(2, 1, heads[1], own, WIDTH)
    packing = Packing(a_row(texts), pool=a_pool(4, heads[1]))

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
        keys, values = everything(packing, text, key, value)
        expected = formula(query[0, :, text.place], keys, values, window, softcap)
        np.testing.assert_allclose(found[0, text.place].numpy(), expected, rtol=0, atol=2e-5)


def everything(
    packing: Packing, text: PackedText, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """All keys and values of a text from its first token on, (kv_heads, n, width), by its tiles."""
    assert packing.pool
    length = len(text.reading.ids)
    parts: list[list[torch.Tensor]] = [[], []]
    for number, tile in enumerate(text.tiles()):
        size = min(BLOCK, length - BLOCK * number)
        for part, kept, row in zip(parts, (packing.pool.keys, packing.pool.values), (key, value), strict=True):
            part.append(kept[0][-tile].transpose(0, 1) if tile < 0 else row[0, :, tile : tile + size])
    keys, values = (torch.cat(part, dim=1) for part in parts)
    assert length == keys.shape[1]
    return keys, values


def test_blocks_are_kept_on_their_pages() -> None:
    """Of the row's keys and values those of the wanted blocks lie on their pages, and no other page is changed."""
    readings = a_row([(0, 192, None), (1, 130, None)])
    readings[0].wanted, readings[1].wanted = {0: 5, 2: 2}, {1: 3}
    pool = a_pool(7, 2)
    before = pool.keys[0].clone()
    packing = Packing(readings, pool=pool)
    key, value = torch.randn(2, 1, 2, packing.tokens, WIDTH)

    packing.keep(0, key, value)

    rows = {5: slice(0, 64), 2: slice(128, 192), 3: slice(192, 256)}
    for page in range(7):
        expected = key[0, :, rows[page]].transpose(0, 1) if page in rows else before[page]
        np.testing.assert_array_equal(expected, pool.keys[0][page])
    for page, place in rows.items():
        np.testing.assert_array_equal(value[0, :, place].transpose(0, 1), pool.values[0][page])


@pytest.mark.parametrize("window", [None, 5])
def test_without_a_packing_every_row_is_a_text(window: int | None) -> None:
    """Plain batches, as `sae verify` runs them, are causal row by row."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 70, WIDTH)

    found, _ = Packed()(None, query, key, value, None, scaling=SCALING, sliding_window=window)

    for row in range(2):
        expected = formula(query[row], key[row], value[row], window, None)
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=0, atol=2e-5)


@settings(max_examples=30, deadline=None)
@given(
    parts=st.lists(st.sampled_from([64, 128, 192]), min_size=1, max_size=3),
    own=st.sampled_from([1, 30, 64, 100]),
    on_pages=st.integers(0, 2),
    window=st.sampled_from([None, 1, 16, 64, 100, 300]),
    softcap=st.sampled_from([None, 3.0]),
)
def test_a_text_gathers_the_same_bits_wherever_its_beginning_stands(
    parts: list[int], own: int, on_pages: int, window: int | None, softcap: float | None
) -> None:
    """Alone, behind beginnings elsewhere in the row, and behind pages, to the last bit."""
    torch.manual_seed(0)
    stops = np.cumsum([*parts, own])
    total = int(stops[-1])
    # In memory token by token, as a reader's projections are.
    query = 2 * torch.randn(1, total, 4, WIDTH).transpose(1, 2)
    key, value = 2 * torch.randn(2, 1, total, 2, WIDTH).transpose(2, 3)
    blocks = min(on_pages, parts[0] // BLOCK - 1)
    pool = a_pool(4, 2)
    for block in range(blocks):
        pool.keys[0][block + 1] = key[0, :, BLOCK * block : BLOCK * (block + 1)].transpose(0, 1)
        pool.values[0][block + 1] = value[0, :, BLOCK * block : BLOCK * (block + 1)].transpose(0, 1)
    # Behind each beginning stands another text that goes on from it, of one token.
    tree: list[tuple[int, int, int | None]] = []
    rows: list[int] = []
    for number in range(len(stops)):
        start = BLOCK * blocks if number == 0 else int(stops[number - 1])
        parent = 2 * (number - 1) if number else None
        tree.append((0 if number else blocks, int(stops[number]) - start, parent))
        rows += range(start, int(stops[number]))
        if number < len(parts):
            tree.append((0, 1, 2 * number))
            rows += [0]

    def attend(readings: list[Reading], *row: torch.Tensor) -> tuple[Packing, torch.Tensor]:
        packing = Packing(readings, pool=pool)
        found, _ = Packed()(
            SimpleNamespace(layer_idx=0),
            *row,
            None,
            scaling=SCALING,
            packing=packing,
            sliding_window=window,
            softcap=softcap,
        )
        return packing, found[0]

    _, alone = attend(a_row([(0, total, None)]), query, key, value)
    packing, found = attend(
        a_row(tree), *(whole.transpose(1, 2)[:, rows].transpose(1, 2) for whole in (query, key, value))
    )

    for text in packing.texts[::2]:
        assert torch.equal(alone[text.first : len(text.reading.ids)], found[text.place])


@pytest.mark.parametrize("blocks", [1, 3])
def test_pages_cost_as_many_operations_however_many_there_are(blocks: int) -> None:
    """For a layer, what is kept is gathered and scattered once, and what is known is gathered once, keys and values."""
    pool = a_pool(4, 2)
    (reading,) = readings = a_row([(0, 200, None)])
    reading.wanted = {number: number + 1 for number in range(blocks)}
    packing = Packing(readings, pool=pool)
    key = torch.randn(1, 2, packing.tokens, WIDTH)
    packing.keep(0, key, key)
    pages = torch.arange(1, blocks + 1)

    with torch.profiler.profile() as trace:
        packing.keep(0, key, key)
        pool.read(0, pages)

    copies = [event.name for event in trace.events() if event.name.startswith("aten::index")]
    assert {"aten::index_select": 4, "aten::index_copy_": 2} == Counter(copies)
