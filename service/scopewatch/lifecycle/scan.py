"""The online scorer over files of any size, in parts, so that what is done stays done.

What made the numbers (`Origin`) is in the metadata of a Parquet file, key `scopewatch`, and in every row of JSONL,
which has no other place for it.
"""

import asyncio
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from tqdm import tqdm

from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import DataError
from scopewatch.lifecycle.chunks import Chunk, chunks_of
from scopewatch.lifecycle.out import Out
from scopewatch.lifecycle.parts import Parts
from scopewatch.lifecycle.result_rows import Origin, columns_of, scored
from scopewatch.lifecycle.shards import Row, Scanned, left_out_of
from scopewatch.lifecycle.until_signal import until_signal
from scopewatch.pairs.data_files import Reading
from scopewatch.pairs.scored import Scorer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a scan is to do."""

    data: Sequence[Path]
    """The files to score."""
    out: Out
    """Where the result goes."""
    part_rows: int = 1024
    """How many rows of a file are saved together."""
    overwrite: bool = False
    """Whether results that are there already are replaced."""
    reading: Reading = field(default_factory=Reading)
    """How the files are read."""


@contextmanager
def parts_for(wanted: Wanted, origin: Origin, indicators: Sequence[str]) -> Iterator[Parts]:
    """What is done of a scan, while nobody else goes on with it.

    Args:
        wanted: What the scan is to do.
        origin: What it scores with.
        indicators: The names of the watchlist's indicators.

    Raises:
        DataError: A file cannot be read or written, or an earlier call began with something else.
    """
    try:
        with Parts.open(
            wanted.data,
            wanted.out,
            wanted.part_rows,
            asdict(wanted.reading.columns),
            types=columns_of(indicators),
            origin=asdict(origin),
        ) as parts:
            parts.look(overwrite=wanted.overwrite)
            yield parts
    except OSError as error:
        raise DataError(f"{error.filename or wanted.out.path}: {error.strerror or error}") from None


class Saving:
    """Saves what was scored as it comes, and shows how far the scan is.

    Args:
        parts: What is done.
        reading: Whether a row may be left out.
    """

    def __init__(self, parts: Parts, reading: Reading) -> None:
        self._parts = parts
        self._reading = reading
        self._bar = tqdm(desc="scoring", unit="row", total=parts.rows, initial=parts.rows_done, disable=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, chunk: Chunk, rows: Sequence[Row]) -> None:
        """Saves a chunk.

        Raises:
            DataError: Every row has to be used, and one could not be scored.
        """
        for left_out in filter(None, map(left_out_of, rows)):
            self._reading.checked(left_out)
        self._parts.add(chunk, rows)
        self._bar.update(len(rows))


def together(chunks: Iterable[Chunk], rows: int) -> Iterator[list[Chunk]]:
    """Chunks in lists that have at least so many rows each, but the last: files may be short."""
    held: list[Chunk] = []
    for chunk in chunks:
        held.append(chunk)
        if sum(len(one.items) for one in held) >= rows:
            yield held
            held = []
    if held:
        yield held


async def scan(wanted: Wanted, score: Scorer, *, origin: Origin, indicators: Sequence[str], at_once: int) -> Scanned:
    """Scores every row of files, or goes on where an earlier call was stopped.

    Args:
        wanted: What to do.
        score: The online scorer.
        origin: What the scorer scores with.
        indicators: The names of the watchlist's indicators.
        at_once: The most pairs that the scorer is given in one call.

    Raises:
        DataError: A file cannot be read or written, or an earlier call began with something else; or with `strict` a
            row that cannot be scored.
        ScopewatchError: The scorer failed altogether; what is finished stays.
    """
    with parts_for(wanted, origin, indicators) as parts, Saving(parts, wanted.reading) as saving:
        unread = (chunk for one in parts.unread for chunk in chunks_of(one, wanted.reading.columns))
        for chunks in together(unread, wanted.part_rows):
            for chunk, rows in zip(chunks, await scored(chunks, score, indicators, at_once), strict=True):
                saving.add(chunk, rows)
        return parts.finish()


def scan_files(wanted: Wanted, config: Config) -> Scanned | signal.Signals:
    """Loads what the settings name and scores every row of files, until all is done or a signal stops it.

    Args:
        wanted: What to do.
        config: The settings, with a single watchlist.

    Raises:
        ScopewatchError: As `scan` does, or something cannot be loaded.
    """
    loaded = load(config.model_copy(update={"shadow": ()}))
    return asyncio.run(_scan_until_stopped(wanted, config, loaded))


async def _scan_until_stopped(wanted: Wanted, config: Config, loaded: Loaded) -> Scanned | signal.Signals:
    (watchlist,) = loaded.watchlists
    async with offline(config, loaded) as monitor:
        return await until_signal(
            scan(
                wanted,
                monitor.score,
                origin=Origin.of(watchlist, loaded.engine.identity, config.max_tokens),
                indicators=[indicator.name for indicator in watchlist.indicators],
                at_once=config.at_once,
            )
        )
