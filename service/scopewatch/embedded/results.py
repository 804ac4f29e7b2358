"""What is said of pairs that were scored inside a program."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import overload

from scopewatch.types import Pair, Segment
from scopewatch.verdicts import Evidence, IndicatorScore, ScoredPair, Verdict

_SHOWN = 160
"""The most characters of a response that are shown."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is said of one pair."""

    pair: Pair
    scored: ScoredPair | None
    """All that the scorer says; None where the pair could not be scored."""
    error: str = ""
    """Why the pair could not be scored; empty if it was. Such a pair has not passed."""

    @property
    def verdict(self) -> Verdict | None:
        """PASS, FLAG or INCOMPLETE; None where the pair could not be scored."""
        return self.scored.verdict if self.scored else None

    @property
    def indicators(self) -> Mapping[str, IndicatorScore]:
        """What each indicator says, by its name."""
        return {one.name: one for one in self.scored.indicators} if self.scored else {}

    @property
    def scores(self) -> dict[str, float]:
        """The score of each indicator that could be scored, by its name."""
        return {name: one.score for name, one in self.indicators.items() if not one.skipped_reason}

    @property
    def flagged(self) -> tuple[str, ...]:
        """The names of the indicators that are flagged."""
        return tuple(name for name, one in self.indicators.items() if one.flagged)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits these numbers: indicators whose card is missing or is of something else, texts not read whole."""
        told = [f"{name}: {_warning(one)}" for name, one in self.indicators.items() if _warning(one)]
        return (*told, *(self.scored.judgement.incomplete if self.scored else ()))

    def evidence(self, indicator: str) -> list[tuple[str, Evidence]]:
        """The spans on which an indicator stands, each with its text.

        Raises:
            KeyError: The watchlist has no such indicator.
        """
        return [(self._text_of(one)[one.start : one.end], one) for one in self.indicators[indicator].evidence]

    def row(self) -> dict[str, object]:
        """The result as a row of a data frame: with each indicator's score in a column of its name."""
        verdict = self.verdict.value if self.verdict else None
        return {"verdict": verdict, "flagged": ", ".join(self.flagged), "error": self.error, **self.scores}

    def _text_of(self, evidence: Evidence) -> str:
        match evidence.segment:
            case Segment.PROMPT:
                return self.pair.prompt
            case Segment.HISTORY:
                return self.pair.history[evidence.turn].content
            case _:
                return self.pair.response


class Results(Sequence[Result]):
    """The results of pairs, in the order in which they were given. A notebook shows them as a table."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = tuple(results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> "Results": ...
    def __getitem__(self, index: int | slice) -> "Result | Results":
        found = self._results[index]
        return Results(found) if isinstance(found, tuple) else found

    def __len__(self) -> int:
        return len(self._results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self._results)

    def __repr__(self) -> str:
        count = {verdict: sum(one.verdict is verdict for one in self) for verdict in (*Verdict, None)}
        told = ", ".join(f"{n} {verdict.value if verdict else 'not scored'}" for verdict, n in count.items() if n)
        return f"<{len(self)} results: {told or 'none'}>"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What limits the numbers of any of them, each sentence once."""
        return tuple(dict.fromkeys(warning for one in self for warning in one.warnings))

    def rows(self) -> list[dict[str, object]]:
        """A row for each, for `pandas.DataFrame(results.rows())`."""
        return [one.row() for one in self]

    def _repr_html_(self) -> str:
        """The table that notebooks show; texts are text in it, whatever they hold."""
        names = list(dict.fromkeys(name for one in self for name in one.indicators))
        head = "".join(f"<th>{escape(name)}</th>" for name in ("verdict", *names, "response"))
        body = "".join(_html_row(one, names) for one in self)
        notes = "".join(f"<li>{escape(warning)}</li>" for warning in self.warnings)
        return f"<table><tr>{head}</tr>{body}</table>" + (f"<ul>{notes}</ul>" if notes else "")


def _warning(indicator: IndicatorScore) -> str:
    if indicator.skipped_reason:
        return f"not scored: {indicator.skipped_reason}"
    return indicator.card_warning or ("" if indicator.calibrated else "uncalibrated: it has no card")


def _html_row(result: Result, names: Sequence[str]) -> str:
    cells = [result.verdict.value.upper() if result.verdict else f"not scored: {result.error}"]
    for name in names:
        one = result.indicators.get(name)
        cells.append("" if one is None or one.skipped_reason else f"{one.score:.3f}{' FLAG' if one.flagged else ''}")
    text = result.pair.response
    cells.append(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
