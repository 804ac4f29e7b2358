"""Pages, the blocks that lie on them, and the trees that rows share: whatever happens, nothing is lost and nothing lies."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scopewatch.reader.packing import Packing
from scopewatch.reader.pages import BLOCK, PagePool
from scopewatch.reader.prefixes import Prefixes, Reading
from scopewatch.reader.sharing import distinct_tokens, known_tokens, shared_rows, side_by_side, with_beginnings
from scopewatch.types import Activations, TokenIds

# Texts of one to four blocks of three kinds and a token: many begin alike.
TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=4)


def ids(blocks: Sequence[int], own: int = 1) -> TokenIds:
    return np.repeat([*blocks, 9], [*[BLOCK] * len(blocks), own]).astype(np.int32)


def a_pool(pages: int) -> PagePool:
    page_bytes = 2 * 4 * BLOCK
    return PagePool(
        page_bytes * pages, layers=1, kv_heads=1, head_dim=1, dtype=torch.float32, device=torch.device("cpu")
    )


def beginnings(text: TokenIds) -> list[float]:
    """What stands for a text's keys: for each token a number that depends on all before it."""
    return np.cumsum((text + 1.0) * (1 + np.arange(len(text)) % 7)).tolist()


def fired(text: TokenIds) -> Activations:
    """What fires on a text: on each token a value that depends on all before it."""
    place = np.arange(len(text), dtype=np.int32)
    return Activations(len(text), place, place % 3, np.array(beginnings(text), np.float32))


class Kept(RuleBasedStateMachine):
    """Batches of texts, passes that succeed and that fail, while others are read on top of what is known."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = a_pool(6)
        self.prefixes = Prefixes(self.pool)
        self.held = ExitStack()
        self.readings: list[Reading] = []

    @rule(texts=st.lists(TEXTS, min_size=1, max_size=4))
    def begin(self, texts: list[list[int]]) -> None:
        """A row is read on top of what is known of its texts; what the row before held is let go."""
        self.held.close()
        self.readings = self.prefixes.open([ids(blocks) for blocks in texts])
        self.readings = [self.readings[number] for number in side_by_side(self.readings)]
        for reading in self.readings:
            self.prefixes.recall(reading)
        self.held.enter_context(self.prefixes.pinned(self.readings))

    @precondition(lambda self: self.readings)
    @rule(fails=st.booleans(), silent=st.sets(st.integers(0, 5)))
    def read(self, *, fails: bool, silent: set[int]) -> None:
        """A pass writes keys on pages, those of failing passes too; what is not kept of some texts is given back."""
        row = with_beginnings(self.readings)
        packing = Packing(row, pool=self.pool)
        keys = np.concatenate([beginnings(text.reading.ids)[text.first :] for text in packing.texts])
        key = torch.from_numpy(keys.astype(np.float32))[None, None, :, None]
        with self.prefixes.pages_for(row):
            # Half of what a failing pass wrote is wrong.
            packing.keep(0, -key if fails else key, key)
            for number, reading in enumerate(row):
                if not fails and number not in silent:
                    self.prefixes.keep(reading, fired(reading.ids))

    @rule()
    def forget(self) -> None:
        """Other features are watched from now on."""
        self.held.close()
        self.readings = []
        self.prefixes.clear()

    @invariant()
    def what_is_known_is_right(self) -> None:
        """A known block has the keys and the activations of its place in the text, also while others come and go."""
        for reading in self.readings:
            for number, block in enumerate(reading.known):
                start = number * BLOCK
                expected = beginnings(reading.ids)[start : start + BLOCK]
                np.testing.assert_array_equal(np.float32(expected), self.pool.keys[0][block.page].flatten())
                np.testing.assert_array_equal(np.float32(expected), block.activations.value)

    @invariant()
    def every_page_has_one_owner(self) -> None:
        """Each page but page 0 is free or holds one block, and no more is told and kept than there may be."""
        used = [block.page for block in self.prefixes._blocks.values()]
        assert sorted([*used, *self.pool._free]) == list(range(1, 6))
        activations = sum(block.activations_bytes for block in self.prefixes._blocks.values())
        assert activations + len(used) * self.pool.page_bytes == self.prefixes.kept_bytes
        assert all((held[0] == 0).all() for held in (*self.pool.keys, *self.pool.values))

    def teardown(self) -> None:
        self.held.close()
        assert not any(block.pins for block in self.prefixes._blocks.values())


TestKept = Kept.TestCase
TestKept.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_the_bound_holds_for_activations_too() -> None:
    """Where many features fire, fewer pages are used than there are."""
    pool = a_pool(5)
    prefixes = Prefixes(pool)
    for blocks in ([0, 1], [0, 1], [2, 2], [2, 2]):
        (reading,) = prefixes.open([ids(blocks)])
        with prefixes.pages_for([reading]):
            prefixes.keep(reading, fired(reading.ids))

    assert 0 < prefixes.kept_bytes <= pool.max_bytes
    assert prefixes.kept_bytes + pool.page_bytes + 12 * BLOCK > pool.max_bytes


def test_the_first_blocks_of_a_text_are_the_last_to_go() -> None:
    """Where there is no room for all of a text's blocks, those stay without which the others are of no use."""
    prefixes = Prefixes(a_pool(4))
    for blocks in ([0, 0, 0], [0, 0, 0], [1], [1]):
        (reading,) = prefixes.open([ids(blocks)])
        with prefixes.pinned([reading]), prefixes.pages_for([reading]):
            prefixes.keep(reading, Activations(len(reading.ids), *[np.zeros(0, np.int32)] * 2, np.zeros(0, np.float32)))
    (long,) = prefixes.open([ids([0, 0, 0])])
    prefixes.recall(long)

    assert 2 == len(long.known)


def test_without_memory_nothing_is_kept_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device whose memory is full reads on, and the log names the setting."""

    def full(*_: object, **__: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    pool = a_pool(4)
    monkeypatch.setattr(torch, "empty", full)
    assert pool.take() is None
    assert pool.take() is None
    assert ["prefix_cache_bytes" in one.message for one in caplog.records] == [True]


@settings(max_examples=200)
@given(texts=st.lists(st.tuples(TEXTS, st.integers(1, 70)), min_size=1, max_size=7), known=st.sets(st.integers(0, 40)))
def test_rows_hold_each_shared_block_once(texts: list[tuple[list[int], int]], known: set[int]) -> None:
    """However texts begin alike and whatever is known of them, a row has each of their tokens that is not known once,
    its tiles tell where each block of a text lies, and those that go on from a text stand right behind it.
    """
    prefixes = Prefixes(a_pool(100))
    readings = prefixes.open([ids(*text) for text in texts])
    every = {reading.keys[: number + 1]: number for reading in readings for number in range(len(reading.keys))}
    for reading in [readings[number % len(readings)] for number in known]:
        with prefixes.pages_for([reading]):
            prefixes.keep(reading, fired(reading.ids))
    ordered = [readings[number] for number in side_by_side(readings)]
    for reading in ordered:
        prefixes.recall(reading)
    packing = Packing(with_beginnings(ordered), pool=prefixes.pool)

    unknown = BLOCK * (len(every) - len(prefixes._blocks))
    own = sum(len(reading.ids) - BLOCK * len(reading.keys) for reading in readings)
    assert unknown + own == packing.tokens == distinct_tokens(ordered) - known_tokens(ordered)
    assert [id(reading.ids) for reading in ordered] == [
        id(text.reading.ids) for text in packing.texts if not text.reading.shared
    ]
    pages = {block.page: key for key, block in prefixes._blocks.items()}
    for number, text in enumerate(packing.texts):
        for place, tile in enumerate(text.tiles()):
            expected = text.reading.ids[BLOCK * place : BLOCK * (place + 1)]
            if tile < 0:
                assert pages[-tile] == text.reading.keys[place]
            else:
                np.testing.assert_array_equal(expected, packing.ids[tile : tile + len(expected)])
        behind = [at for at, other in enumerate(packing.texts) if text in ancestors(other)]
        assert list(range(number, text.until)) == [number, *behind]


def ancestors(text: object) -> list[object]:
    found = []
    while text := text.parent:  # type: ignore[attr-defined]
        found.append(text)
    return found


@given(texts=st.lists(st.tuples(TEXTS, st.integers(1, 70)), min_size=1, max_size=9), most=st.integers(1, 900))
def test_rows_are_as_long_as_they_may_be(texts: list[tuple[list[int], int]], most: int) -> None:
    """A row has at most so many tokens, those that its texts share counted once, unless it is one text; and the next
    text would have been too many.
    """
    readings = Prefixes(a_pool(3)).open([ids(*text) for text in texts])
    rows = list(shared_rows(readings, most))

    assert readings == [reading for row in rows for reading in row]
    for row in rows:
        assert len(row) == 1 or distinct_tokens(row) <= most
    for row, following in pairwise(rows):
        assert distinct_tokens([*row, following[0]]) > most


def test_texts_that_share_nothing_stay_in_their_order() -> None:
    """Only what begins alike is moved, behind the first that begins so."""
    readings = Prefixes(a_pool(3)).open([ids(blocks) for blocks in ([1], [], [0, 1], [2], [0, 2], [1, 1], [0, 1])])

    assert [0, 5, 1, 2, 6, 4, 3] == side_by_side(readings)
