"""The finished parts of a scan's result, which lie in a folder beside it until all is done."""

import fcntl
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from scopewatch.errors import DataError
from scopewatch.files import atomic_write
from scopewatch.lifecycle.rows import json_lines, row_writer
from scopewatch.pairs.left_out import LeftOut, Tally
from scopewatch.verdicts import Verdict

_ROW_GROUP = 8192
_MADE_OF = "made_of.json"


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a finished result holds."""

    flagged: int
    incomplete: int
    """How many rows have the verdict INCOMPLETE."""
    tally: Tally
    """How many rows were read, and which could not be scored."""


def parts_of(out: Path) -> Path:
    """The folder in which the parts of a result lie until it is done."""
    return out.with_name(out.name + ".parts")


class Parts:
    """Finished parts of a result, as JSONL; all but the last have the same number of rows."""

    def __init__(self, folder: Path) -> None:
        """Finds the parts that are in the folder."""
        self._folder = folder
        self.done = len(list(folder.glob("part-*.jsonl")))

    @classmethod
    @contextmanager
    def open(cls, folder: Path, made_of: dict[str, object]) -> Iterator["Parts"]:
        """Begins the parts made of these things, or finds them again; no other process may open them meanwhile."""
        folder.mkdir(exist_ok=True)
        with (folder / _MADE_OF).open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"{folder}: another scan is writing here; wait for it, or give another --out") from None
            parts = cls(folder)
            stream.seek(0)
            _check_same(folder, json.load(stream) if parts.done else made_of, made_of)
            if not parts.done:
                stream.truncate(0)
                json.dump(made_of, stream)
                stream.flush()
            try:
                yield parts
            finally:
                if not parts.done:
                    shutil.rmtree(folder, ignore_errors=True)

    def add(self, rows: Iterable[dict[str, object]]) -> None:
        """Saves the next part, whole or not at all."""
        file = self._folder / f"part-{self.done:08}.jsonl"
        with atomic_write(file) as part, part.open("w", encoding="utf-8") as stream:
            stream.writelines(json_lines(rows))
        self.done += 1

    def join(self, out: Path, types: Mapping[str, str], origin: Mapping[str, str]) -> Scanned:
        """Makes the result of the parts, then removes them.

        Args:
            out: The file of the result.
            types: What Arrow calls the type of each column, by the column's name.
            origin: What made the numbers.
        """
        joined = self._folder / "joined"
        verdicts: Counter[str | None] = Counter()
        tally = Tally()
        with row_writer(joined, out.suffix, types, origin) as write:
            saved = self._rows()
            while group := list(islice(saved, _ROW_GROUP)):
                write(group)
                verdicts.update(row["verdict"] for row in group)
                tally += Tally.of(len(group), filter(None, map(_left_out, group)))
        joined.replace(out)
        shutil.rmtree(self._folder)
        return Scanned(verdicts[Verdict.FLAG], verdicts[Verdict.INCOMPLETE], tally)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for file in sorted(self._folder.glob("part-*.jsonl")):
            with file.open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)


def _left_out(row: Mapping[str, Any]) -> LeftOut | None:
    """What a row of the result says that could not be scored, if it could not."""
    if row["error"] is None:
        return None
    reason, _, detail = row["error"].partition(": ")
    return LeftOut(f"{row['file']}:{row['row']}", reason, detail)


def _check_same(folder: Path, known: dict[str, object], made_of: dict[str, object]) -> None:
    """Refuses to go on with parts that were made of something else."""
    if other := sorted(key for key in known | made_of if known.get(key) != made_of.get(key)):
        raise DataError(
            f"{folder}: was begun with another {', '.join(other)}; "
            "delete the folder to begin anew, or give another --out"
        )
