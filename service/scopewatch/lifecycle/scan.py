"""The online scorer over a file of any size, in parts, so that what is done stays done.

Rows of `DATA.jsonl` or `DATA.parquet` have `response` and, where they have them, `prompt`, `history` and `id`; other
columns are ignored. Each becomes a row of the result:

    row, id            place in DATA, counted from 1 (the line of a JSONL file); null id where the row cannot be read
    verdict            pass or flag; null where the pair could not be scored
    {name}.score, {name}.flagged, {name}.probability, {name}.skipped_reason     of every indicator; a skipped one has no
                       score, and the probability is null where the watchlist maps none
    tokens, truncated, response_tokens_dropped
    error              why it could not be scored, as `reason: message`; else null

What made the numbers (`Origin`) is in the metadata of a Parquet file, key `scopewatch`, and in every row of JSONL,
which has no other place for it. Until all is done, finished parts lie in the folder `OUT.parts`.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

import scopewatch
from scopewatch.errors import DataError, EngineDied, EngineError, InvalidRequest, ScopewatchError
from scopewatch.lifecycle.rows import Row, check_format, json_lines, read_rows, row_writer
from scopewatch.pairs.labelled import LabelledPair, parse_row
from scopewatch.pairs.scored import Score
from scopewatch.types import EngineIdentity, ScoredPair, ScoreJob
from scopewatch.watch.watchlist import Watchlist

_COLUMNS = ("id", "prompt", "response", "history")
_ROW_GROUP = 8192
_MADE_OF = "made_of.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made the numbers: another of these may make others."""

    watchlist: str
    watchlist_digest: str
    reader_digest: str
    engine_digest: str
    """Of reader, SAEs, dtype, device and the most tokens read of a pair."""
    scopewatch: str = scopewatch.__version__

    @classmethod
    def of(cls, watchlist: Watchlist, engine: EngineIdentity, max_tokens: int) -> "Origin":
        """What scores with this watchlist on this engine."""
        canonical = json.dumps([asdict(engine), max_tokens], sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()
        return cls(watchlist.name, watchlist.digest, engine.reader.digest, digest)


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a finished result holds."""

    rows: int
    flagged: int
    failed: int
    """Rows that could not be scored."""


def parts_of(out: Path) -> Path:
    """The folder in which the parts of a result lie until it is done."""
    return out.with_name(out.name + ".parts")


def check_files(data: Path, out: Path, *, overwrite: bool) -> None:
    """Refuses what would fail only after the engine is loaded.

    Raises:
        DataError: Names the file and the mend.
    """
    for file in (data, out):
        check_format(file)
    if not data.is_file():
        raise DataError(f"{data}: no such file")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent}: no such folder")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give another --out")
    if out.exists() and out.samefile(data):
        raise DataError(f"{out}: is the file to be scored; give another --out")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already; give another --out, or --overwrite")


async def scan(
    data: Path,
    out: Path,
    score: Score,
    *,
    origin: Origin,
    indicators: Sequence[str],
    at_once: int,
    part_rows: int = 1024,
) -> Scanned:
    """Scores every row of a file, or goes on where an earlier call was stopped.

    Args:
        data: JSONL or Parquet.
        out: JSONL or Parquet; replaced when all is done.
        score: The online scorer.
        origin: What it scores with.
        indicators: Names of the watchlist's.
        at_once: Most pairs given to the scorer in one call.
        part_rows: Rows between two savings.

    Raises:
        DataError: A file cannot be read or written, or what was begun was begun with something else.
        ScopewatchError: The scorer failed altogether; what is finished stays.
    """
    try:
        with data.open("rb") as stream:
            data_digest = hashlib.file_digest(stream, "sha256").hexdigest()
        made_of = {**asdict(origin), "data_digest": data_digest, "part_rows": part_rows}
        with _Parts.open(parts_of(out), made_of) as parts:
            rows = islice(read_rows(data, _COLUMNS, needed="response"), parts.done * part_rows, None)
            with tqdm(desc="scoring", unit="row", initial=parts.done * part_rows, disable=None) as bar:
                while part := list(islice(rows, part_rows)):
                    chunks = [part[first : first + at_once] for first in range(0, len(part), at_once)]
                    parts.add([row for chunk in chunks for row in await _scored(chunk, score, indicators)])
                    bar.update(len(part))
            if not parts.done:
                raise DataError(f"{data}: holds no rows")
            return parts.join(out, origin, indicators)
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from None


async def _scored(rows: Sequence[Row], score: Score, indicators: Sequence[str]) -> list[dict[str, object]]:
    read = [_read(*row) for row in rows]
    jobs = [ScoreJob(item.pair, "", item.id) for item in read if isinstance(item, LabelledPair)]
    outcomes = iter(await score(jobs))
    found = []
    for (number, _), item in zip(rows, read, strict=True):
        identity, outcome = (None, item) if isinstance(item, DataError) else (item.id, next(outcomes))
        if isinstance(outcome, EngineDied) or not isinstance(
            outcome, (ScoredPair, DataError, InvalidRequest, EngineError)
        ):
            # Not this pair's fault: the next would fail the same way.
            raise outcome
        found.append({"row": number, "id": identity, **_result(outcome, indicators)})
    return found


def _read(number: int, load: Callable[[], object]) -> LabelledPair | DataError:
    try:
        row = load()
        # A label may be anything here, since nothing is learnt from it.
        wanted = {name: row[name] for name in _COLUMNS if name in row} if isinstance(row, dict) else row
        return parse_row(wanted, number, "", labelled=False)
    except json.JSONDecodeError as error:
        return DataError(f"not JSON: {error.msg} at column {error.colno}")
    except UnicodeDecodeError as error:
        return DataError(f"not UTF-8 at byte {error.start}")
    except RecursionError:
        return DataError("nested too deeply")
    except ValueError as error:
        return DataError(str(error))


def _result(outcome: ScoredPair | ScopewatchError, indicators: Sequence[str]) -> dict[str, object]:
    if isinstance(outcome, ScopewatchError):
        return dict.fromkeys(_types(indicators)) | {"error": f"{outcome.reason}: {outcome}"}
    found: dict[str, object] = {"verdict": outcome.verdict.value}
    for part in outcome.indicators:
        found |= {
            f"{part.name}.score": None if part.skipped_reason else part.score,
            f"{part.name}.flagged": part.flagged,
            f"{part.name}.probability": part.probability,
            f"{part.name}.skipped_reason": part.skipped_reason or None,
        }
    coverage = outcome.coverage
    return found | {
        "tokens": coverage.tokens,
        "truncated": coverage.truncated,
        "response_tokens_dropped": coverage.response_tokens_dropped,
        "error": None,
    }


def _types(indicators: Sequence[str]) -> dict[str, str]:
    """Columns after `row` and `id`, and what Arrow calls their types."""
    each = {"score": "float64", "flagged": "bool", "probability": "float64", "skipped_reason": "string"}
    return {
        "verdict": "string",
        **{f"{name}.{part}": kind for name in indicators for part, kind in each.items()},
        "tokens": "int32",
        "truncated": "bool",
        "response_tokens_dropped": "int32",
        "error": "string",
    }


class _Parts:
    """Finished parts of a result, as JSONL; all but the last have the same number of rows."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.done = len(list(folder.glob("part-*.jsonl")))

    @classmethod
    @contextmanager
    def open(cls, folder: Path, made_of: dict[str, object]) -> Iterator["_Parts"]:
        """Begins, or finds again, what is made of these things; no other process may meanwhile."""
        folder.mkdir(exist_ok=True)
        with (folder / _MADE_OF).open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(f"{folder}: another scan is writing here; wait for it, or give another --out") from None
            parts = cls(folder)
            stream.seek(0)
            known = json.load(stream) if parts.done else made_of
            if other := sorted(key for key in known | made_of if known.get(key) != made_of.get(key)):
                raise DataError(
                    f"{folder}: was begun with another {', '.join(other)}; "
                    "delete the folder to begin anew, or give another --out"
                )
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
        unfinished = file.with_suffix(".tmp")
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.writelines(json_lines(rows))
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(file)
        self.done += 1

    def join(self, out: Path, origin: Origin, indicators: Sequence[str]) -> Scanned:
        """Makes the result of the parts, then removes them."""
        joined = self._folder / "joined"
        rows = flagged = failed = 0
        types = {"row": "int64", "id": "string", **_types(indicators)}
        with row_writer(joined, out.suffix, types, asdict(origin)) as write:
            saved = self._rows()
            while group := list(islice(saved, _ROW_GROUP)):
                write(group)
                rows += len(group)
                flagged += sum(row["verdict"] == "flag" for row in group)
                failed += sum(row["error"] is not None for row in group)
        joined.replace(out)
        shutil.rmtree(self._folder)
        return Scanned(rows, flagged, failed)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for file in sorted(self._folder.glob("part-*.jsonl")):
            with file.open(encoding="utf-8") as stream:
                yield from map(json.loads, stream)
