"""Shared beginnings: read once, and the same activations as without."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from conftest import House
from families import FAMILIES, HIDDEN, save_weights
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.errors import EngineError
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import BLOCK
from scopewatch.sae.encoder import Encoder
from scopewatch.sae.open import open_sae
from scopewatch.types import Activations, EncodedBatch

Ids = NDArray[np.int32]
WIDTH = 24
PLENTY = 1 << 26


def a_reader(directory: Path) -> Reader:
    return load_reader(directory, name="r", revision="", deepest_layer=2, device="cpu", dtype="float32")


def a_runner(reader: Path | Reader, prefix_bytes: int, *, row_tokens: int = 2048) -> Runner:
    """SAEs at two layers, one before and one after sliding-window attention, that fire on half the tokens."""
    rng = np.random.default_rng(0)
    encoders = [
        Encoder(
            "none",
            rng.normal(size=(HIDDEN, WIDTH)).astype(np.float32),
            np.zeros(WIDTH, np.float32),
            np.zeros(WIDTH, np.float32),
            np.arange(WIDTH),
        )
        for _ in range(2)
    ]
    places = [Hookpoint(1), Hookpoint(2, "mlp_out")]
    placed = [PlacedEncoder(place, encoder) for place, encoder in zip(places, encoders, strict=True)]
    loaded = reader if isinstance(reader, Reader) else a_reader(reader)
    return Runner(loaded, placed, row_tokens=row_tokens, prefix_bytes=prefix_bytes)


def row_lengths(reader: Reader) -> list[int]:
    """Tokens of every row that a reader reads from now on, appended as it goes by."""
    lengths: list[int] = []

    def see(_module: object, _arguments: object, inputs: dict[str, torch.Tensor]) -> None:
        lengths.append(inputs["input_ids"].shape[1])

    reader.model.register_forward_pre_hook(see, with_kwargs=True)
    return lengths


def text(*parts: tuple[int, int]) -> Ids:
    """Token ids from (seed, length) parts: equal parts are equal texts."""
    return np.concatenate([np.random.default_rng(seed).integers(10, 400, length) for seed, length in parts]).astype(
        np.int32
    )


def dense(encoded: EncodedBatch) -> list[NDArray[np.float64]]:
    tables = []
    for one in encoded.activations:
        assert isinstance(one, Activations), one
        table = np.zeros((one.n_tokens, 2 * WIDTH))
        table[one.token, one.column] = one.value
        tables.append(table)
    return tables


def assert_equal(expected: EncodedBatch, actual: EncodedBatch) -> None:
    for here, there in zip(dense(expected), dense(actual), strict=True):
        assert here.shape == there.shape
        np.testing.assert_allclose(there, here, rtol=0, atol=1e-5 * np.abs(here).max())


SYSTEM = (1, 2 * BLOCK + 20)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(request.param, tmp_path_factory.mktemp(request.param))


def test_a_shared_beginning_changes_nothing(family: Path) -> None:
    """In every reader family: a batch under one system prompt, and its repetition, equal each text read alone."""
    batch = [text(SYSTEM, (2, 30)), text(SYSTEM, (3, 70)), text((4, 40)), text(SYSTEM, (5, 1)), text(SYSTEM)]
    plain, reusing = a_runner(family, 0), a_runner(family, PLENTY)
    alone = EncodedBatch([plain([ids]).activations[0] for ids in batch], 0, 0)

    for _ in range(3):
        found = reusing(batch)
        assert_equal(alone, found)
        assert found.reused_tokens > 0


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights("gemma2", tmp_path_factory.mktemp("gemma"))


def test_a_conversation_is_read_on_from_its_last_turn(gemma: Path) -> None:
    """Turns of one conversation, sent one by one, are read from where the turn before was kept, with equal results."""
    turns = [text(*((seed, 60) for seed in range(1, count))) for count in range(2, 8)]
    plain, reusing = a_runner(gemma, 0), a_runner(gemma, PLENTY)
    found = [reusing([ids]) for ids in turns]

    for ids, one in zip(turns, found, strict=True):
        assert_equal(plain([ids]), one)
    # A turn's own blocks are kept when the next turn repeats them, and used by the one after.
    assert [0, 0, 0, 64, 128, 192] == [one.reused_tokens for one in found]


def test_what_nobody_repeats_is_not_kept(gemma: Path) -> None:
    """Texts that share nothing leave nothing behind but digests."""
    runner = a_runner(gemma, PLENTY)
    for seed in range(5):
        runner([text((seed, 200))])

    assert 0 == runner.kept_bytes


def test_a_beginning_that_several_texts_share_is_read_once(gemma: Path) -> None:
    """Of a batch under one system prompt the prompt's blocks are computed once, also the first time, and in its row."""
    batch = [text(SYSTEM, (seed, 40)) for seed in range(2, 10)]
    reader = a_reader(gemma)
    runner, read = a_runner(reader, PLENTY), row_lengths(reader)
    found = runner(batch)

    assert 7 * 2 * BLOCK == found.reused_tokens
    assert [2 * BLOCK + 8 * (20 + 40)] == read


def test_what_is_known_counts_in_a_row(gemma: Path) -> None:
    """A row's bound is one of memory, which the keys and values of known beginnings take as well."""
    batch = [text(SYSTEM, (seed, 40)) for seed in range(2, 10)]
    reader = a_reader(gemma)
    runner, read = a_runner(reader, PLENTY, row_tokens=2 * len(batch[0])), row_lengths(reader)
    runner(batch)
    read.clear()
    found = runner(batch)

    assert 8 * 2 * BLOCK == found.reused_tokens
    assert [4 * (20 + 40)] * 2 == read


@pytest.mark.parametrize("blocks", [0.5, 1, 2.5])
def test_what_is_kept_is_bounded(gemma: Path, blocks: float) -> None:
    """Whatever is read, no more is kept than allowed, and the results are right."""
    probe = a_runner(gemma, PLENTY)
    probe([text(SYSTEM, (2, 9))] * 2)
    one_block = probe.kept_bytes // 2
    bound = int(blocks * one_block)
    runner, plain = a_runner(gemma, bound), a_runner(gemma, 0)
    for seed in range(4):
        batch = [text((seed, 150), (other, 30)) for other in range(10, 13)]
        found = runner(batch)
        assert_equal(plain(batch), found)
        assert found.reused_tokens >= 0
        assert runner.kept_bytes <= bound


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(
            st.lists(st.tuples(st.integers(1, 3), st.sampled_from([5, 64, 100, 128])), min_size=1, max_size=4),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([1 << 16, PLENTY]),
)
def test_any_history_of_batches_gives_the_same(
    gemma: Path, batches: Sequence[Sequence[Sequence[tuple[int, int]]]], bound: int
) -> None:
    """However texts share beginnings, within batches and across them, results are those without reuse."""
    plain, reusing = a_runner(gemma, 0), a_runner(gemma, bound)
    for parts in batches:
        batch = [text(*part) for part in parts]
        assert_equal(plain(batch), reusing(batch))
        assert reusing.kept_bytes <= bound


def test_one_token_apart_is_apart(gemma: Path) -> None:
    """Texts that differ in their first token share nothing, however long they are equal after it."""
    runner = a_runner(gemma, PLENTY)
    ids = text((1, 200))
    other = ids.copy()
    other[0] += 1

    assert 0 == runner([ids, other]).reused_tokens


def test_a_block_belongs_to_what_stands_before_it(gemma: Path) -> None:
    """Equal tokens after different beginnings are different blocks."""
    batch = [text((first, BLOCK), (9, BLOCK), (first, 20)) for first in (1, 2)]
    plain, reusing = a_runner(gemma, 0), a_runner(gemma, PLENTY)
    for ids in batch * 3:
        found = reusing([ids])
        assert_equal(plain([ids]), found)

    assert 2 * BLOCK == found.reused_tokens


def test_a_failing_text_leaves_no_block(house: House) -> None:
    """A text on which the reader overflows is kept by nobody, and others with its beginning are read right."""
    encoder = open_sae(house.saes["mid"]).encoder(range(64))
    reader = a_reader(house.reader)
    runner = Runner(reader, [PlacedEncoder(Hookpoint(1), encoder)], row_tokens=2048, prefix_bytes=PLENTY)
    bad = text((1, 100), (2, 30))
    bad[3] = 450
    weights = reader.model.get_input_embeddings().weight
    healthy = weights[450].clone()
    with torch.no_grad():
        weights[450] = torch.inf
    found = runner([bad, bad])
    failed = found.activations
    with torch.no_grad():
        weights[450] = healthy
    mended = runner([bad, bad])

    assert {EngineError} == {type(one) for one in failed}
    assert 0 == found.reused_tokens
    assert {Activations} == {type(one) for one in mended.activations}


def test_a_pass_that_fails_half_way_keeps_no_page(gemma: Path) -> None:
    """When a row is too much for the device behind its first layer, its halves are read right, and every page is
    either free or has a block that was read to the end.
    """
    batch = [text(SYSTEM, (seed, 40)) for seed in range(2, 6)]
    reader = a_reader(gemma)
    runner = a_runner(reader, PLENTY)

    def refuse(_module: object, arguments: tuple[torch.Tensor, ...]) -> None:
        if arguments[0].shape[1] > 2 * BLOCK + 3 * 60:
            raise RuntimeError("out of memory")

    handle = reader.layers[1].register_forward_pre_hook(refuse)
    found = runner(batch)
    handle.remove()
    prefixes = runner._reuse.prefixes
    assert prefixes.pool

    # Of the two halves the first reads what they share, and the second each its own again if that was not kept.
    assert found.reused_tokens in {2 * BLOCK * 2, 2 * BLOCK * 3}
    pages = [block.page for block in prefixes._blocks.values()]
    assert sorted([*pages, *prefixes.pool._free]) == list(range(1, prefixes.pool.pages))
    plain = a_runner(gemma, 0)(batch)
    for one in (found, runner(batch)):
        assert_equal(plain, one)


def test_memory_for_beginnings_is_told_until_it_is_taken(gemma: Path) -> None:
    """What a device has to leave free for pages is all that may be kept, and nothing once they are there."""
    runner = a_runner(gemma, PLENTY)
    before = runner.pending_bytes
    runner([text(SYSTEM, (seed, 9)) for seed in (2, 3)])

    assert (PLENTY, 0) == (before, runner.pending_bytes)
    assert 0 == a_runner(gemma, 0).pending_bytes
