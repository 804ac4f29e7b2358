"""What of a scan is done, so that it goes on from there; and the result that is made of it."""

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

from scopewatch.errors import DataError, NothingUsable
from scopewatch.lifecycle.chunks import Chunk, Unread
from scopewatch.lifecycle.out import Out
from scopewatch.lifecycle.rows import row_writer
from scopewatch.lifecycle.shards import Row, Scanned, Shard

_ROW_GROUP = 8192
_MADE_OF = "made_of.json"


class Parts:
    """The finished parts of a result.

    Args:
        out: Where the result goes.
        shards: The data files, in the order of the result.
        types: What Arrow calls the type of each column, by the column's name.
        origin: What makes the numbers.
    """

    def __init__(self, out: Out, shards: Sequence[Shard], types: Mapping[str, str], origin: Mapping[str, str]) -> None:
        self._out = out
        self._shards = {shard.file: shard for shard in shards}
        self._types = types
        self._origin = origin

    @classmethod
    @contextmanager
    def open(
        cls,
        data: Sequence[Path],
        out: Out,
        part_rows: int,
        columns: object,
        *,
        types: Mapping[str, str],
        origin: Mapping[str, str],
    ) -> Iterator["Parts"]:
        """Begins the parts of a result, or finds them again; no other process may open them meanwhile.

        Args:
            data: The data files.
            out: Where the result goes.
            part_rows: The number of rows of each part.
            columns: How the files are read, as JSON has it.
            types: What Arrow calls the type of each column, by the column's name.
            origin: What makes the numbers.

        Raises:
            DataError: The parts that are there were made of something else.
        """
        folder = out.parts
        folder.mkdir(parents=bool(out.each), exist_ok=True)
        made_of = {**origin, "part_rows": part_rows, "columns": columns}
        made_of |= {} if out.each else {"data": list(map(str, data))}
        with (folder / _MADE_OF).open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"{folder}: another scan is writing here; wait for it, or give another --out") from None
            begun = any(folder.glob("*/part-*")) or any(folder.glob("*/summary.json"))
            stream.seek(0)
            _check_same(folder, json.load(stream) if begun else made_of, made_of)
            if not begun:
                stream.truncate(0)
                json.dump(made_of, stream)
                stream.flush()
            parts = cls(out, [Shard(folder, file, part_rows) for file in data], types, origin)
            try:
                yield parts
            finally:
                if not any(shard.is_begun for shard in parts._shards.values()) and not begun:
                    shutil.rmtree(folder, ignore_errors=True)

    def look(self, *, overwrite: bool = False) -> None:
        """Looks at every data file: it has to hold what it held when its first part was made.

        Args:
            overwrite: Whether results in a folder that are there already are made anew.

        Raises:
            DataError: A file holds something else, or a result is there that is not of this scan.
        """
        for shard in self._shards.values():
            done = self._is_done(shard)
            if shard.summary and (overwrite or not done):
                shard.forget()
            elif self._out.each and not shard.is_begun and not overwrite and self._out.of(shard.file).exists():
                raise DataError(f"{self._out.of(shard.file)}: exists already; give another --out, or --overwrite")
            _ = shard.content

    @property
    def unread(self) -> list[Unread]:
        """What of the data files is still to be scored, file by file."""
        return [shard.unread for shard in self._shards.values() if not self._is_done(shard) and not shard.is_whole]

    @property
    def rows(self) -> int:
        """The number of rows of all data files, or a somewhat higher one."""
        return sum(shard.content.rows for shard in self._shards.values())

    @property
    def rows_done(self) -> int:
        """The number of rows that are scored already."""
        return sum(shard.summary.tally.read if shard.summary else shard.rows_done for shard in self._shards.values())

    def add(self, chunk: Chunk, rows: Iterable[Row]) -> None:
        """Saves what was scored; a data file that is whole with it gets its result, where each has one of its own."""
        shard = self._shards[chunk.file]
        shard.add(chunk, rows)
        if self._out.each and shard.is_whole:
            self._finish(shard)

    def finish(self) -> Scanned:
        """Makes the result of all parts, unless each data file has one of its own, and says what it holds.

        Raises:
            NothingUsable: No data file holds a row.
        """
        if not self.rows_done:
            for shard in self._shards.values():
                shard.forget()
            raise NothingUsable(f"{', '.join(map(str, self._shards))}: holds no rows")
        if self._out.each:
            for shard in self._shards.values():
                if not shard.summary:
                    # All of it was scored, and the process ended before its result was made.
                    self._finish(shard)
            return sum((shard.summary or Scanned() for shard in self._shards.values()), Scanned())
        scanned = self._join(self._shards.values(), self._out.path)
        shutil.rmtree(self._out.parts)
        return scanned

    def _finish(self, shard: Shard) -> None:
        result = self._out.of(shard.file)
        result.parent.mkdir(parents=True, exist_ok=True)
        shard.finish(self._join([shard], result))

    def _is_done(self, shard: Shard) -> bool:
        return shard.summary is not None and self._out.of(shard.file).exists()

    def _join(self, shards: Iterable[Shard], out: Path) -> Scanned:
        joined = self._out.parts / "joined"
        scanned = Scanned()
        with row_writer(joined, out.suffix, self._types, self._origin) as write:
            saved = chain.from_iterable(shard.rows() for shard in shards)
            while group := list(islice(saved, _ROW_GROUP)):
                write(group)
                scanned += Scanned.of(group)
        joined.replace(out)
        return scanned


def _check_same(folder: Path, known: dict[str, object], made_of: dict[str, object]) -> None:
    """Refuses to go on with parts that were made of something else."""
    if other := sorted(key for key in known | made_of if known.get(key) != made_of.get(key)):
        raise DataError(
            f"{folder}: was begun with another {', '.join(other)}; "
            "delete the folder to begin anew, or give another --out"
        )
