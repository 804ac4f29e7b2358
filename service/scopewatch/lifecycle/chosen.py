"""Pairs that somebody chose out of files, to look at each of them: by row, by id, or by what a scan said of them."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.lifecycle.rows import result_rows
from scopewatch.pairs.columns import Columns
from scopewatch.pairs.data_files import job_of
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.raw_row import RawRow
from scopewatch.pairs.rows import STDIN, rows_of
from scopewatch.types import ScoreJob
from scopewatch.verdicts import Verdict


@dataclass(frozen=True, slots=True)
class Choice:
    """The rows that are wanted."""

    rows: Collection[int] = ()
    """Those of these places in their files, counted from 1; of JSONL and CSV the lines."""
    ids: Collection[str] = ()
    """Those of these ids; of an id that several rows have, each of them."""
    flagged: int = 0
    """The first so many that a scan flagged."""


@dataclass(frozen=True, slots=True)
class ChosenPair:
    """A pair that was chosen."""

    job: ScoreJob
    place: str
    """Where a user finds it: the file and the row."""
    scanned: str = ""
    """The verdict of the scan by which it was chosen; empty without one."""


@dataclass(frozen=True, slots=True)
class _Scanned:
    """A row of a scan's result: where its pair stands, and what was said of it."""

    file: str
    row: int
    id: str | None
    verdict: str | None


def chosen_of_files(files: Sequence[Path], choice: Choice, columns: Columns) -> list[ChosenPair]:
    """The chosen pairs of files, in their order.

    Args:
        files: The files.
        choice: The rows and ids.
        columns: Where in a row the parts of a pair stand.

    Raises:
        DataError: There is no such row, or it holds no pair that can be scored.
    """
    found, missing = [], set(choice.rows)
    for row in rows_of(files, columns):
        by_row = row.number in choice.rows
        if not (by_row or choice.ids):
            continue
        job = job_of(row, columns)
        if by_row or (isinstance(job, ScoreJob) and job.request_id in choice.ids):
            found.append(ChosenPair(_usable(job), row.place))
            missing.discard(row.number)
        if len(files) == 1 and not missing and not choice.ids:
            break
    ids = {pair.job.request_id for pair in found}
    _check_found(", ".join(map(str, files)), missing, set(choice.ids) - ids)
    return found


def chosen_of_scan(result: Path, choice: Choice, columns: Columns) -> list[ChosenPair]:
    """The chosen pairs of a scan's result, from the files that it names, in the order of the result.

    Args:
        result: What `scopewatch scan` wrote.
        choice: The rows, ids and flagged ones; a row's number is that in the file it came from.
        columns: Where in a row of these files the parts of a pair stand.

    Raises:
        DataError: The result has no such row, or the row is not in its file as it was.
    """
    scanned = list(_scanned(result, choice))
    rows, ids = {one.row for one in scanned}, {one.id for one in scanned}
    _check_found(str(result), set(choice.rows) - rows, set(choice.ids) - ids)
    if not scanned:
        raise DataError(f"{result}: no row is flagged")
    files = {one.file: {other.row for other in scanned if other.file == one.file} for one in scanned}
    found = {file: _rows(result, file, numbers, columns) for file, numbers in files.items()}
    return [_again(one, found[one.file].get(one.row), columns) for one in scanned]


def _scanned(result: Path, choice: Choice) -> Iterator[_Scanned]:
    read = (_Scanned(**row) for row in result_rows(result, ("file", "row", "id", "verdict")))
    if choice.flagged:
        return islice((one for one in read if one.verdict == Verdict.FLAG), choice.flagged)
    return (one for one in read if one.row in choice.rows or one.id in choice.ids)


def _rows(result: Path, file: str, numbers: set[int], columns: Columns) -> dict[int, RawRow]:
    """The rows of a file that have these numbers, as far as they are there."""
    if file == str(STDIN):
        raise DataError(f"{result}: its pairs came from standard input; scan them from a file to have them explained")
    if not Path(file).exists():
        raise DataError(f"{file}: no such file, though {result} names it; run this in the folder of the scan")
    found: dict[int, RawRow] = {}
    for row in rows_of([Path(file)], columns):
        if row.number in numbers:
            found[row.number] = row
        if len(found) == len(numbers):
            break
    return found


def _again(scanned: _Scanned, row: RawRow | None, columns: Columns) -> ChosenPair:
    """The pair that was scanned, read from its file."""
    place = f"{scanned.file}:{scanned.row}"
    if row is None:
        raise DataError(f"{place}: there is no such row; the file is not as it was scanned")
    job = _usable(job_of(row, columns))
    if scanned.id is not None and job.request_id != scanned.id:
        raise DataError(
            f"{place}: has id {job.request_id!r}, and the scan had {scanned.id!r}; the file is not as it was scanned, "
            "or its columns were others"
        )
    return ChosenPair(job, place, scanned.verdict or "")


def _usable(job: ScoreJob | LeftOut) -> ScoreJob:
    if isinstance(job, LeftOut):
        raise DataError(str(job))
    return job


def _check_found(where: str, rows: set[int], ids: set[str]) -> None:
    if rows:
        raise DataError(f"{where}: has no row {min(rows)}")
    if ids:
        raise DataError(f"{where}: has no row with id {min(ids)!r}")
