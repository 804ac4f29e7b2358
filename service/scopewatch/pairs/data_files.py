"""The files that hold pairs, by their names and patterns, and the pairs in them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from scopewatch.errors import DataError
from scopewatch.pairs.cells import name_or_number
from scopewatch.pairs.columns import Columns, find
from scopewatch.pairs.conversation import NoText, pair_of
from scopewatch.pairs.labelled import LabelledPair, Labels, parse_row
from scopewatch.pairs.left_out import LeftOut, Tally
from scopewatch.pairs.raw_row import RawRow
from scopewatch.pairs.rows import STDIN, rows_of
from scopewatch.types import ScoreJob

_NO_JSON = "not JSON: "


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    columns: Columns = field(default_factory=Columns)
    """Where in a row the parts of a pair stand."""
    strict: bool = False
    """Whether the first row that cannot be used ends the work, instead of being left out."""

    def checked(self, left_out: LeftOut) -> LeftOut:
        """What is left out, if it may be.

        Raises:
            DataError: Every row has to be used.
        """
        if self.strict:
            raise DataError(str(left_out))
        return left_out


@dataclass(frozen=True, slots=True)
class PairsRead:
    """The pairs of files, and what was left out."""

    pairs: list[LabelledPair]
    tally: Tally


def named_files(*names: str) -> list[Path]:
    """The files of these names, each once, in the order of the names.

    Args:
        names: Names of files, `-` for standard input, or patterns such as `logs/2026-*.jsonl`, whose files are sorted.

    Raises:
        DataError: A file is not there or is a folder, or a pattern matches no file.
    """
    files = list(dict.fromkeys(file for name in names for file in _files_of(name)))
    for name in map(str, files):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{name!r}: its name is not UTF-8; rename it") from None
    return files


def read_pairs(*files: Path, reading: Reading = Reading()) -> PairsRead:
    """Reads labelled files, one after the other.

    Raises:
        DataError: A file cannot be read, or all pairs have one label; or with `strict` a row that is wrong.
        NothingUsable: No row can be used.
    """
    read = read_texts(*files, labels=Labels.NEEDED, reading=reading)
    check_both_labels(read.pairs, ", ".join(map(str, files)), read.tally)
    return read


def read_texts(
    *files: Path,
    labels: Labels = Labels.IGNORED,
    reading: Reading = Reading(),
) -> PairsRead:
    """Reads files, one after the other; the label of a pair that has none is None.

    Raises:
        DataError: A file cannot be read; or with `strict` a row that is wrong.
        NothingUsable: No row can be used.
    """
    pairs: list[LabelledPair] = []
    left_out: list[LeftOut] = []
    for found in _read(files, labels, reading.columns):
        if isinstance(found, LabelledPair):
            pairs.append(found)
        else:
            left_out.append(reading.checked(found))
    tally = Tally.of(len(pairs) + len(left_out), left_out)
    no_json = bool(left_out) and left_out[0].detail.startswith(_NO_JSON)
    tally.need(", ".join(map(str, files)), "expected JSONL: one JSON object on each line" * no_json)
    return PairsRead(pairs, tally)


def check_both_labels(pairs: Sequence[LabelledPair], what: str, tally: Tally) -> None:
    """Refuses pairs that all have one label.

    Raises:
        DataError: Says so of `what`, which the pairs are of, and which rows of it were left out.
    """
    if len({pair.label for pair in pairs}) < 2:
        only = f", all of label {pairs[0].label}" if pairs else ""
        told = f"{what}: {len(pairs)} pairs{only}; both labels, 0 and 1, are needed"
        raise DataError("\n".join([told, *tally.first_lines]))


def job_of(row: RawRow, columns: Columns) -> ScoreJob | LeftOut:
    """The pair of a row to score, under its id; of the row nothing else matters, since nothing is learnt from it."""
    try:
        held = row.load()
        pair = pair_of(held, columns)
        assert isinstance(held, dict), "else it is no pair"
        return ScoreJob(pair, "", name_or_number(find(held, columns.id), columns.id) or str(row.number))
    except (ValueError, RecursionError) as error:
        return problem_of(row, error)


def problem_of(row: RawRow, error: Exception) -> LeftOut:
    """The row that is left out since it could not be read, given the error that says so."""
    match error:
        case NoText():
            return LeftOut(row.place, "no_text", str(error))
        case json.JSONDecodeError():
            detail = f"{_NO_JSON}{error.msg} at column {error.colno}"
        case UnicodeDecodeError():
            detail = f"not UTF-8 at byte {error.start}; save it as UTF-8"
        case RecursionError():
            detail = "nested too deeply"
        case _:
            detail = str(error)
    return LeftOut(row.place, "unreadable", detail)


def _files_of(name: str) -> list[Path]:
    file = Path(name).expanduser()
    if name == str(STDIN):
        return [STDIN]
    if file.is_dir():
        raise DataError(f"{name}: is a folder; name its files, such as '{name.rstrip('/')}/*.jsonl'")
    if file.exists():
        return [file]
    if not any(mark in name for mark in "*?["):
        raise DataError(f"{name}: no such file")
    # A pattern may be absolute, which a Path's own glob refuses.
    matches = glob(str(file), recursive=True)  # noqa: PTH207
    found = sorted(path for path in map(Path, matches) if not path.is_dir())
    if not found:
        raise DataError(f"{name}: no file matches")
    return found


def _read(files: Sequence[Path], labels: Labels, columns: Columns) -> Iterator[LabelledPair | LeftOut]:
    for row in rows_of(files, columns):
        try:
            source, file = row.file.name.removesuffix(".gz").rpartition(".")[0] or row.file.name, str(row.file)
            yield parse_row(row.load(), row.number, source, labels=labels, columns=columns, file=file)
        except (ValueError, RecursionError) as error:
            yield problem_of(row, error)
