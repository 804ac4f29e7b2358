"""The queue before the engine: a lane for each caller, served by their weights."""

from bisect import bisect_left, insort
from dataclasses import dataclass
from typing import Generic, TypeVar

from scopewatch.types import Caller


@dataclass(slots=True, eq=False)
class Waiting:
    """Something that waits in a caller's lane."""

    turn: tuple[int, int]
    """The number of the lane's tokens that the engine had taken when it came, plus those ahead of it in its own call;
    then the order of arrival. So a large call lets others in between its pairs, and no stream of other calls holds up a
    pair for longer than its own call would take alone."""
    tokens: int
    caller: Caller

    def __lt__(self, other: "Waiting") -> bool:
        return self.turn < other.turn


E = TypeVar("E", bound=Waiting)


class _Lane(Generic[E]):
    """What waits for one caller, in the order of turns."""

    def __init__(self) -> None:
        self.waiting: list[E] = []
        self.weight = 1.0
        self.tokens = 0
        self.taken_tokens = 0
        self.next = 0.0
        """The virtual time at which its first entry comes."""

    def tokens_before(self, turn: tuple[int, int]) -> int:
        place = bisect_left(self.waiting, turn, key=lambda one: one.turn)
        if 2 * place < len(self.waiting):
            return sum(one.tokens for one in self.waiting[:place])
        return self.tokens - sum(one.tokens for one in self.waiting[place:])


class Lanes(Generic[E]):
    """Fair queueing by start time: while several callers wait, each gets tokens in proportion to its weight.

    A lane's virtual time moves on by the tokens that are taken from it, divided by its weight, and the lane that is
    furthest behind is served. A lane in which nothing waited starts where the others are, so that nobody saves up.

    Args:
        max_tokens: The most tokens that may wait in all lanes together.
    """

    def __init__(self, max_tokens: int) -> None:
        self.tokens = 0
        """The number of tokens that wait."""
        self._max_tokens = max_tokens
        self._lanes: dict[str, _Lane[E]] = {}
        self._now = 0.0

    def taken_tokens(self, caller: Caller) -> int:
        """The number of tokens that the engine took from a caller's lane."""
        lane = self._lanes.get(caller.name)
        return lane.taken_tokens if lane else 0

    def make_room(self, caller: Caller, tokens: int) -> list[E] | None:
        """Makes room for something of a caller's.

        Whoever comes while all is full gets in if it then has no more waiting than its share: its weight, divided by
        those of all callers with something waiting, of all there may wait. The last to come are put out, of those
        callers that have the most for their weight; where one is below its share, such are above theirs.

        Returns:
            What was put out for it; None where there is no room.
        """
        put_out: list[E] = []
        if self.tokens + tokens <= self._max_tokens or not self.tokens:
            return put_out
        mine = self._lanes.get(caller.name)
        waiting = [lane for lane in self._lanes.values() if lane.waiting]
        weights = caller.weight + sum(lane.weight for lane in waiting if lane is not mine)
        if (mine.tokens if mine else 0) + tokens > self._max_tokens * caller.weight / weights:
            return None
        while self.tokens + tokens > self._max_tokens:
            fullest = max(waiting, key=lambda lane: lane.tokens / lane.weight)
            put_out.append(fullest.waiting[-1])
            self.remove(put_out[-1])
        return put_out

    def add(self, entry: E) -> None:
        """Lets an entry wait in its caller's lane."""
        lane = self._lanes.get(entry.caller.name)
        if lane is None:
            self._lanes = {name: old for name, old in self._lanes.items() if old.waiting or old.next > self._now}
            lane = self._lanes[entry.caller.name] = _Lane()
        if not lane.waiting:
            lane.next = max(lane.next, self._now)
        lane.weight = entry.caller.weight
        insort(lane.waiting, entry)
        self._count(lane, entry.tokens)

    def tokens_before(self, caller: Caller, turn: tuple[int, int]) -> float:
        """The number of tokens, of those that wait now, that are taken before an entry with this turn."""
        mine = self._lanes.get(caller.name)
        before = mine.tokens_before(turn) if mine else 0
        starts = max(mine.next if mine else 0.0, self._now) + before / caller.weight
        others = (lane for lane in self._lanes.values() if lane is not mine)
        return before + sum(min(lane.tokens, max(0.0, starts - lane.next) * lane.weight) for lane in others)

    def first(self) -> E | None:
        """The entry whose turn it is."""
        waiting = [lane for lane in self._lanes.values() if lane.waiting]
        return min(waiting, key=lambda lane: lane.next).waiting[0] if waiting else None

    def take(self, entry: E) -> None:
        """Takes the entry whose turn it is, and counts its tokens as its caller's."""
        lane = self._lanes[entry.caller.name]
        self.remove(entry)
        lane.taken_tokens += entry.tokens
        self._now = lane.next
        lane.next += entry.tokens / lane.weight
        if not self.tokens:
            # Nobody waits, so that nobody is behind.
            self.clear()

    def remove(self, entry: E) -> bool:
        """Gives an entry's place to others; whether it waited."""
        lane = self._lanes.get(entry.caller.name)
        place = bisect_left(lane.waiting, entry) if lane else 0
        if not lane or place == len(lane.waiting) or lane.waiting[place] is not entry:
            return False
        del lane.waiting[place]
        self._count(lane, -entry.tokens)
        return True

    def clear(self) -> list[E]:
        """Empties all lanes; what waited in them."""
        gone = [one for lane in self._lanes.values() for one in lane.waiting]
        self._lanes.clear()
        self.tokens, self._now = 0, 0.0
        return gone

    def _count(self, lane: _Lane[E], tokens: int) -> None:
        lane.tokens += tokens
        self.tokens += tokens
