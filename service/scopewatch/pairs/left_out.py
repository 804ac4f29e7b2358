"""Rows that are in no number: which they are, why, and how many of each kind there were."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from scopewatch.errors import NothingUsable

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that is in no number."""

    place: str
    """Where a user finds the row: the file and the line."""
    reason: str
    """One word, the same for all rows of a kind: `unreadable`, `no_text`, `invalid_request`, `empty_segment`."""
    detail: str = ""
    """What is wrong with this row; empty where the reason says all."""

    def __str__(self) -> str:
        return f"{self.place}: {self.detail or self.reason}"


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows were read, and what was left out of them."""

    read: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    """The number of rows that were left out, by the reason."""
    first: tuple[str, ...] = ()
    """The first few of these rows, with what is wrong with each."""
    notes: tuple[str, ...] = ()
    """Sentences that say what else is odd about the rows."""

    @classmethod
    def of(cls, read: int, left_out: Iterable[LeftOut]) -> "Tally":
        """The tally of rows, given those that were left out; these may be many, and are not kept."""
        reasons: Counter[str] = Counter()
        first: list[str] = []
        for row in left_out:
            reasons[row.reason] += 1
            first += [str(row)] if len(first) < _SHOWN else []
        return cls(read, dict(reasons), tuple(first))

    def without(self, left_out: Iterable[LeftOut]) -> "Tally":
        """The tally of the same rows, of which these were left out later."""
        return self + Tally.of(0, left_out)

    def noting(self, *notes: str) -> "Tally":
        """The tally of the same rows, with sentences that say what else is odd about them."""
        return replace(self, notes=(*self.notes, *notes))

    def __add__(self, other: "Tally") -> "Tally":
        reasons = Counter(self.reasons) + Counter(other.reasons)
        first = (*self.first, *other.first)[:_SHOWN]
        return Tally(self.read + other.read, dict(reasons), first, (*self.notes, *other.notes))

    @property
    def left_out(self) -> int:
        """The number of rows that were left out."""
        return sum(self.reasons.values())

    @property
    def used(self) -> int:
        """The number of rows that are in the numbers."""
        return self.read - self.left_out

    @property
    def by_reason(self) -> str:
        """The numbers of rows left out, such as `2 unreadable, 1 empty_segment`."""
        ordered = sorted(self.reasons.items(), key=lambda item: -item[1])
        return ", ".join(f"{count:,} {reason}" for reason, count in ordered)

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences that say what was left out, if anything was, and what else is odd."""
        left_out = f"{self.left_out:,} of {self.read:,} rows were left out: {self.by_reason}."
        return (*[left_out][: self.left_out], *self.notes)

    @property
    def first_lines(self) -> list[str]:
        """The first few rows that were left out, one a line, and how many others there were."""
        more = self.left_out - len(self.first)
        return [*self.first, *([f"and {more:,} more rows"] if more else [])]

    def need(self, what: str, hint: str = "") -> "Tally":
        """This tally, if a row is left that can be used.

        Args:
            what: What the rows are of, or were to be used for.
            hint: What may be the matter, on a line of its own.

        Raises:
            NothingUsable: There is none; names the first few and what is wrong with them.
        """
        if self.used:
            return self
        said = f"none of {self.read:,} rows can be used" if self.read else "holds no rows"
        raise NothingUsable("\n".join([f"{what}: {said}", *self.first_lines, *([hint] if hint else [])]))
