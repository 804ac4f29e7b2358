"""The attention for GPUs, run where there is none: unfused, and as one compiled kernel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AttentionInterface

from families import FAMILIES, save_weights
from scopewatch.reader import loading as reader_module
from scopewatch.reader.attention import Packed
from scopewatch.reader.flex import MULTIPLE, TILE, PackedFlex, _mask
from scopewatch.reader.packing import AttentionKind, Packing
from scopewatch.reader.prefixes import BLOCK
from test_attention import a_row
from test_prefixes import PLENTY, SYSTEM, a_reader, a_runner, assert_equal, row_lengths, text

# Of lengths around the tile, with and without a beginning in common, and longer than every family's window.
BATCH = [
    text(SYSTEM, (2, 30)),
    text(SYSTEM, (3, 170)),
    text((4, TILE)),
    text(SYSTEM, (5, 1)),
    text((6, 1)),
    text(SYSTEM),
    text((1, BLOCK), (7, 40)),
    text((8, 300)),
]

# Tiles that belong to one text whole, beside those of others.
ALIGNED = [text((seed, 2 * TILE)) for seed in (20, 21, 22)]


@pytest.fixture
def flex(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes readers that are loaded from now on run a FlexAttention kernel."""

    def use(kernel: Callable[..., Any]) -> None:
        def register(*_: object) -> AttentionKind:
            kind = PackedFlex(kernel, otherwise=Packed())
            AttentionInterface.register(kind.name, kind)
            return kind

        monkeypatch.setattr(reader_module, "register_attention", register)

    return use


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_gives_what_packed_attention_gives(
    family: str, tmp_path: Path, flex: Callable[..., None]
) -> None:
    """In every family, with windows, soft caps and beginnings that are known, both kinds give the same."""
    directory = save_weights(family, tmp_path)
    plain = a_runner(directory, 0)
    expected, aligned = plain(BATCH), plain(ALIGNED)
    flex(flex_attention)
    reader = a_reader(directory)
    runner, lengths = a_runner(reader, PLENTY), row_lengths(reader)

    for _ in range(3):
        found = runner(BATCH)
        assert_equal(expected, found)
    assert found.reused_tokens > 0
    assert_equal(aligned, runner(ALIGNED))
    assert lengths
    assert {0} == {length % MULTIPLE for length in lengths}


def test_lengths_and_windows_are_not_compiled_again(tmp_path: Path, flex: Callable[..., None]) -> None:
    """Whatever the lengths, the windows and what is known of them, rows are run by one of few compiled kernels.

    Compiled as far as the graph: torch's kernels for CPUs cannot be built for lengths that vary.
    """
    directory = save_weights("gemma2", tmp_path)
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> Callable[..., object]:
        compiled.append(graph)
        return graph.forward

    torch._dynamo.reset()
    flex(torch.compile(flex_attention, backend=backend))
    plain, runner = a_runner(directory, 0), a_runner(directory, PLENTY)
    batches = [[text((20 + n, 50 + 150 * n)), text((40 + n, 70))] for n in range(4)] + [BATCH] * 3 + [BATCH[:2]]

    for batch in batches:
        assert_equal(plain(batch), runner(batch))
    assert len(compiled) <= 2


@pytest.mark.parametrize("window", [None, 16, 200])
def test_tiles_are_listed_as_their_tokens_see_each_other(window: int | None) -> None:
    """A tile in which anybody sees anybody is listed, and as one where nothing is asked only if all see all."""
    # Known blocks, own tokens, and which text of these one goes on from.
    texts = [(0, 256, None), (3, 320, None), (0, 256, 1), (0, 64, 2), (0, 300, 1), (0, 40, None), (2, 256, None)]
    packing = Packing(a_row([*texts, (2, 130, None), (0, 256, None)]), multiple=MULTIPLE)
    plan = PackedFlex(flex_attention, otherwise=Packed()).plan(packing, None)
    assert plan
    packing.inputs = {name: torch.from_numpy(array) for name, array in plan.items()}
    mask = _mask(packing, window)
    q, k = (torch.arange(length) for length in mask.seq_lengths)
    sees = mask.mask_mod(None, None, q[:, None], k[None]).reshape(len(q) // TILE, TILE, len(k) // TILE, TILE)
    listed = {name: np.zeros((len(q) // TILE, len(k) // TILE), bool) for name in ("asked", "full")}
    for name, counts, which in (
        ("asked", mask.kv_num_blocks, mask.kv_indices),
        ("full", mask.full_kv_num_blocks, mask.full_kv_indices),
    ):
        for row, (count, tiles) in enumerate(zip(counts[0, 0], which[0, 0], strict=True)):
            listed[name][row, tiles[:count].numpy()] = True

    assert not (listed["asked"] & listed["full"]).any()
    assert not (sees.any(3).any(1).numpy() & ~(listed["asked"] | listed["full"])).any()
    np.testing.assert_array_equal(sees.all(3).all(1).numpy(), listed["full"])
    # Keys by where they lie: r for row r, and numbers below 0 for places on pages.
    on_pages = -(plan["pages"][:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    where = np.concatenate([on_pages, np.arange(len(q))])
    sees = sees.reshape(len(q), len(k)).numpy()
    for packed in packing.texts:
        tiles = np.array(packed.tiles())[:, None]
        lies = np.where(tiles < 0, tiles * BLOCK - np.arange(BLOCK), tiles + np.arange(BLOCK)).reshape(-1)
        for token in range(packed.place.start, packed.place.stop):
            last = packed.first + token - packed.place.start + 1
            expected = lies[max(0, last - (window or last)) : last]
            np.testing.assert_array_equal(np.sort(expected), np.sort(where[sees[token]]))
