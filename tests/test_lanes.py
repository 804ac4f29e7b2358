"""The queue's lanes: whose turn it is, what is ahead of whom, and who gets in where all is full."""

import random
from collections import Counter
from itertools import count

import pytest

from scopewatch.pipeline.lanes import Lanes, Waiting
from scopewatch.types import ANYONE, Caller

A, B, C = Caller("a"), Caller("b"), Caller("c", weight=2.0)


class Queue:
    """Lanes with a shorthand for adding."""

    def __init__(self, max_tokens: int = 1000) -> None:
        self.lanes: Lanes[Waiting] = Lanes(max_tokens)
        self._arrivals = count()

    def add(self, caller: Caller, tokens: int = 10, ahead_tokens: int = 0) -> Waiting:
        turn = (self.lanes.taken_tokens(caller) + ahead_tokens, next(self._arrivals))
        self.lanes.add(entry := Waiting(turn, tokens, caller))
        return entry

    def take(self, most: int = 10_000) -> list[Waiting]:
        taken = []
        while len(taken) < most and (entry := self.lanes.first()):
            self.lanes.take(entry)
            taken.append(entry)
        return taken

    def names(self, most: int = 10_000) -> str:
        return "".join(entry.caller.name for entry in self.take(most))


@pytest.fixture
def queue() -> Queue:
    return Queue()


class TestTurns:
    def test_callers_take_turns(self, queue: Queue) -> None:
        """However many pairs one has waiting, another's come in between."""
        for caller in (A, A, A, A, B, B):
            queue.add(caller)

        assert queue.names() == "ababaa"

    def test_turns_are_of_tokens_and_by_weight(self, queue: Queue) -> None:
        """Of callers who always have something waiting each gets tokens in proportion to its weight."""
        dice = random.Random(2)
        tokens: Counter[str] = Counter()
        for caller in (A, B, C):
            for _ in range(400):
                queue.add(caller, dice.randint(5, 20) if caller is B else dice.randint(1, 8))
        for entry in queue.take(600):
            tokens[entry.caller.name] += entry.tokens

        assert tokens["b"] / tokens["a"] == pytest.approx(1, abs=0.05)
        assert tokens["c"] / tokens["a"] == pytest.approx(2, abs=0.1)

    def test_who_was_idle_has_saved_nothing(self, queue: Queue) -> None:
        """A caller who comes back after a while is served beside the others, not instead of them."""
        queue.add(A)
        for _ in range(20):
            queue.add(B)
        queue.take(15)
        for _ in range(4):
            queue.add(A)

        assert "aaa" not in queue.names()

    def test_who_was_just_served_is_behind(self, queue: Queue) -> None:
        """Emptying one's lane does not make forget what was taken from it."""
        for _ in range(3):
            queue.add(B, 10)
        queue.add(A, 30)
        first = queue.names(2)
        queue.add(A, 30)

        assert (sorted(first), queue.names()) == (["a", "b"], "bba")

    def test_a_lane_alone_lets_other_calls_in_between(self, queue: Queue) -> None:
        """A caller's large call does not hold up its small ones, and is not held up by them."""
        large = [queue.add(ANYONE, 10, ahead_tokens=10 * place) for place in range(4)]
        taken = queue.take(1)
        small = [queue.add(ANYONE), queue.add(ANYONE)]

        assert [*taken, *queue.take()] == [large[0], large[1], *small, large[2], large[3]]


class TestAhead:
    def test_what_is_ahead_is_what_is_taken_before(self) -> None:
        """The tokens that are foretold to be taken before a pair are those that are, but for about a pair a caller."""
        dice = random.Random(4)
        for _ in range(200):
            queue = Queue()
            for _ in range(dice.randint(1, 40)):
                queue.add(dice.choice([A, B, C]), dice.randint(1, 10), dice.choice([0, 0, 20, 60]))
            queue.take(dice.randint(0, 10))
            caller = dice.choice([A, B, C])
            entry = queue.add(caller, 5, dice.choice([0, 30]))
            queue.lanes.remove(entry)
            foretold = queue.lanes.tokens_before(caller, entry.turn)
            queue.lanes.add(entry)
            taken = queue.take()
            before = sum(one.tokens for one in taken[: taken.index(entry)])

            assert foretold == pytest.approx(before, abs=20)

    def test_of_one_lane_it_is_exact(self, queue: Queue) -> None:
        """A caller alone is told exactly."""
        for ahead_tokens in (0, 10, 20, 30, 40):
            queue.add(A, 10, ahead_tokens)

        assert [queue.lanes.tokens_before(A, (ahead, 99)) for ahead in (0, 10, 35, 99)] == [10, 20, 40, 50]


class TestRoom:
    def test_alone_a_caller_may_fill_the_queue_and_no_more(self, queue: Queue) -> None:
        """Where nobody else waits, everything is one caller's share."""
        queue.add(A, 990)

        assert queue.lanes.make_room(A, 10) == []
        assert queue.lanes.make_room(A, 11) is None

    def test_a_full_queue_lets_in_who_is_below_its_share(self, queue: Queue) -> None:
        """Those who came last of the caller that has the most are put out, and the queue is no longer than it may be."""
        waiting = [queue.add(A, 100) for _ in range(10)]

        put_out = queue.lanes.make_room(B, 150)

        assert put_out == [waiting[9], waiting[8]]
        assert queue.lanes.tokens == 800

    def test_nobody_gets_more_than_its_share_by_that(self, queue: Queue) -> None:
        """Where others wait, a caller fills a full queue up to its share by weight: a third for one beside two."""
        for _ in range(100):
            queue.add(C, 10)
        let_in = 0
        while queue.lanes.make_room(B, 10) is not None:
            queue.add(B, 10)
            let_in += 1

        assert let_in == 33
        assert queue.lanes.tokens <= 1000
        assert queue.lanes.make_room(C, 10) is None or queue.lanes.tokens + 10 <= 1000

    def test_a_pair_larger_than_the_queue_gets_into_an_empty_one(self, queue: Queue) -> None:
        """What could never fit is not refused for ever."""
        assert queue.lanes.make_room(A, 5000) == []

    def test_whoever_leaves_gives_its_place_to_others(self, queue: Queue) -> None:
        """A place is freed once, and what was not waiting frees none."""
        entry = queue.add(A, 1000)

        assert [queue.lanes.remove(entry), queue.lanes.remove(entry)] == [True, False]
        assert queue.lanes.tokens == 0

    def test_lanes_of_callers_who_are_gone_are_forgotten(self, queue: Queue) -> None:
        """Callers who came once cost no memory."""
        for number in range(100):
            queue.add(Caller(f"caller {number}"))
            queue.take()

        busy = Queue()
        for number in range(100):
            busy.add(A)
            busy.add(Caller(f"caller {number}"))
            busy.take(2)
            busy.add(A)

        assert len(queue.lanes._lanes) <= 1
        assert len(busy.lanes._lanes) <= 3
