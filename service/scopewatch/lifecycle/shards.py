"""The finished parts of a scan's result, which lie in a folder of each data file until all of it is done.

A part is a file of JSONL. Its first line says where in the data file it ends; the others are rows of the result.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from scopewatch.errors import DataError
from scopewatch.files import atomic_write
from scopewatch.lifecycle.chunks import Chunk, Unread
from scopewatch.lifecycle.rows import json_lines
from scopewatch.pairs.left_out import LeftOut, Tally
from scopewatch.pairs.raw_row import START, Position
from scopewatch.pairs.rows import STDIN, digest_of, most_rows
from scopewatch.verdicts import Verdict

Row = Mapping[str, Any]
"""A row of a result, by its columns' names."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a finished result holds."""

    flagged: int = 0
    incomplete: int = 0
    """How many rows have the verdict INCOMPLETE."""
    tally: Tally = field(default_factory=Tally)
    """How many rows were read, and which could not be scored."""

    def __add__(self, other: "Scanned") -> "Scanned":
        return Scanned(self.flagged + other.flagged, self.incomplete + other.incomplete, self.tally + other.tally)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Scanned":
        """What these rows of a result hold."""
        verdicts = Counter(row["verdict"] for row in rows)
        tally = Tally.of(len(rows), filter(None, map(left_out_of, rows)))
        return cls(verdicts[Verdict.FLAG], verdicts[Verdict.INCOMPLETE], tally)


@dataclass(frozen=True, slots=True)
class Content:
    """What a data file held when it was looked at."""

    bytes: int
    changed_ns: int
    """When it was changed last, in nanoseconds since 1970."""
    sha256: str
    rows: int
    """The number of its rows, or a somewhat higher one, as `most_rows`."""

    @classmethod
    def of(cls, file: Path, known: "Content | None") -> "Content":
        """What a file holds now; a file of the size and the time that are known is not read again.

        Raises:
            DataError: The file cannot be read.
        """
        if file == STDIN:
            return cls(0, 0, digest_of(file), most_rows(file))
        try:
            now = file.stat()
        except OSError as error:
            raise DataError(f"{file}: cannot be read: {error.strerror}") from None
        if known and (known.bytes, known.changed_ns) == (now.st_size, now.st_mtime_ns):
            return known
        return cls(now.st_size, now.st_mtime_ns, digest_of(file), most_rows(file))


class Shard:
    """A data file and the parts of the result that are made of it.

    Args:
        folder: Where the parts of all data files lie.
        file: The data file.
        part_rows: The number of rows of each part but the last.
    """

    def __init__(self, folder: Path, file: Path, part_rows: int) -> None:
        self.file = file
        self._part_rows = part_rows
        self._folder = folder / hashlib.sha256(str(file).encode()).hexdigest()[:16]
        self._numbers = {int(part.stem.removeprefix("part-")) for part in self._folder.glob("part-*.jsonl")}
        self._first_missing = 0
        self._find_missing()

    @property
    def is_begun(self) -> bool:
        """Whether any part of it is finished, or all of it was."""
        return bool(self._numbers) or self._summary.exists()

    @property
    def is_whole(self) -> bool:
        """Whether every part of it is finished."""
        return self._first_missing > 0 and bool(self._head(self._first_missing - 1)["is_last"])

    @property
    def rows_done(self) -> int:
        """The number of rows whose parts are finished, from the first on."""
        return self._begin.rows

    @cached_property
    def content(self) -> Content:
        """What the file holds, which has to be what it held when its first part was made.

        Raises:
            DataError: The file cannot be read, or holds something else now.
        """
        saved = self._folder / "content.json"
        known = Content(**json.loads(saved.read_text())) if self.is_begun else None
        content = Content.of(self.file, known)
        if known and known.sha256 != content.sha256:
            raise DataError(
                f"{self._folder.parent}: was begun with another content of {self.file}; "
                "delete the folder to begin anew, or give another --out"
            )
        if content != known:
            self._folder.mkdir(exist_ok=True)
            with atomic_write(saved) as part:
                part.write_text(json.dumps(asdict(content)), encoding="utf-8")
        return content

    @property
    def unread(self) -> Unread:
        """What of the file is still to be scored."""
        return Unread(self.file, self._part_rows, self._first_missing, self._begin, frozenset(self._numbers))

    def add(self, chunk: Chunk, rows: Iterable[Row]) -> None:
        """Saves a part, whole or not at all. Parts may come in any order; one that is there already is left as it is.

        Args:
            chunk: What was read.
            rows: Its rows of the result.
        """
        if chunk.number in self._numbers:
            return
        head = {"after": asdict(chunk.after), "is_last": chunk.is_last}
        with atomic_write(self._part(chunk.number)) as part, part.open("w", encoding="utf-8") as stream:
            stream.writelines(json_lines([head, *rows]))
        self._numbers.add(chunk.number)
        self._find_missing()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the result that are saved, in the order of the file."""
        for number in sorted(self._numbers):
            with self._part(number).open(encoding="utf-8") as stream:
                next(stream)
                yield from map(json.loads, stream)

    @property
    def summary(self) -> Scanned | None:
        """What the file's own result holds, if that is finished."""
        if not self._summary.exists():
            return None
        held = json.loads(self._summary.read_text(encoding="utf-8"))
        return Scanned(held["flagged"], held["incomplete"], Tally(**held["tally"] | {"first": tuple(held["first"])}))

    def finish(self, scanned: Scanned) -> None:
        """Keeps what the file's own result holds, in place of its parts."""
        tally = {"read": scanned.tally.read, "reasons": dict(scanned.tally.reasons)}
        held = {"flagged": scanned.flagged, "incomplete": scanned.incomplete, "tally": tally}
        with atomic_write(self._summary) as part:
            part.write_text(json.dumps(held | {"first": scanned.tally.first}), encoding="utf-8")
        for number in self._numbers:
            self._part(number).unlink()

    def forget(self) -> None:
        """Begins anew."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._numbers.clear()
        self._first_missing = 0

    def _find_missing(self) -> None:
        while self._first_missing in self._numbers:
            self._first_missing += 1

    @property
    def _begin(self) -> Position:
        first = self._first_missing
        return Position(**self._head(first - 1)["after"]) if first else START

    @property
    def _summary(self) -> Path:
        return self._folder / "summary.json"

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:08}.jsonl"

    def _head(self, number: int) -> dict[str, Any]:
        with self._part(number).open(encoding="utf-8") as stream:
            head: dict[str, Any] = json.loads(stream.readline())
            return head


def left_out_of(row: Row) -> LeftOut | None:
    """What a row of the result says that could not be scored, if it could not."""
    if row["error"] is None:
        return None
    reason, _, detail = row["error"].partition(": ")
    return LeftOut(f"{row['file']}:{row['row']}", reason, detail)
