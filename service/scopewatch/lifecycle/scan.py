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

import asyncio
import hashlib
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

import scopewatch
from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import DataError, EngineDied, EngineError, InvalidRequest, ScopewatchError
from scopewatch.identity import EngineIdentity
from scopewatch.lifecycle.parts import Parts, Scanned, parts_of
from scopewatch.lifecycle.rows import Row, check_format, read_rows
from scopewatch.lifecycle.until_signal import until_signal
from scopewatch.pairs.labelled import LabelledPair, parse_row
from scopewatch.pairs.scored import Scorer
from scopewatch.types import ScoredPair, ScoreJob
from scopewatch.watch.watchlist import Watchlist

_COLUMNS = ("id", "prompt", "response", "history")


@dataclass(frozen=True, slots=True)
class Origin:
    """What made the numbers: with another of these, numbers may be others."""

    watchlist: str
    watchlist_digest: str
    reader_digest: str
    engine_digest: str
    """The digest of reader, SAEs, dtype, device and the most tokens read of a pair."""
    scopewatch: str = scopewatch.__version__

    @classmethod
    def of(cls, watchlist: Watchlist, engine: EngineIdentity, max_tokens: int) -> "Origin":
        """The origin of what is scored with this watchlist on this engine."""
        canonical = json.dumps([asdict(engine), max_tokens], sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()
        return cls(watchlist.name, watchlist.digest, engine.reader.digest, digest)


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
    score: Scorer,
    *,
    origin: Origin,
    indicators: Sequence[str],
    at_once: int,
    part_rows: int = 1024,
) -> Scanned:
    """Scores every row of a file, or goes on where an earlier call was stopped.

    Args:
        data: The file to score, JSONL or Parquet.
        out: The file of the result, JSONL or Parquet; it is replaced when all is done.
        score: The online scorer.
        origin: What the scorer scores with.
        indicators: The names of the watchlist's indicators.
        at_once: The most pairs that the scorer is given in one call.
        part_rows: How many rows are saved together.

    Raises:
        DataError: A file cannot be read or written, or an earlier call began with something else.
        ScopewatchError: The scorer failed altogether; what is finished stays.
    """
    try:
        with data.open("rb") as stream:
            data_digest = hashlib.file_digest(stream, "sha256").hexdigest()
        made_of = {**asdict(origin), "data_digest": data_digest, "part_rows": part_rows}
        with Parts.open(parts_of(out), made_of) as parts:
            done = parts.done * part_rows
            rows = islice(read_rows(data, _COLUMNS, needed="response"), done, None)
            with tqdm(desc="scoring", unit="row", initial=done, disable=None) as bar:
                while part := list(islice(rows, part_rows)):
                    chunks = [part[first : first + at_once] for first in range(0, len(part), at_once)]
                    parts.add([row for chunk in chunks for row in await _scored(chunk, score, indicators)])
                    bar.update(len(part))
            if not parts.done:
                raise DataError(f"{data}: holds no rows")
            return parts.join(out, _columns(indicators), asdict(origin))
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from None


def scan_file(data: Path, out: Path, config: Config, *, part_rows: int) -> Scanned | signal.Signals:
    """Loads what the settings name and scores every row of a file, until all is done or a signal stops it.

    Args:
        data: The file to score, JSONL or Parquet.
        out: The file of the result, JSONL or Parquet.
        config: The settings, with a single watchlist.
        part_rows: How many rows are saved together.

    Raises:
        ScopewatchError: As `scan` does, or something cannot be loaded.
    """
    return asyncio.run(_scan_until_stopped(data, out, config, load(config), part_rows))


async def _scan_until_stopped(
    data: Path, out: Path, config: Config, loaded: Loaded, part_rows: int
) -> Scanned | signal.Signals:
    (watchlist,) = loaded.watchlists
    async with offline(config, loaded) as monitor:
        return await until_signal(
            scan(
                data,
                out,
                monitor.score,
                origin=Origin.of(watchlist, loaded.engine.identity, config.max_tokens),
                indicators=[indicator.name for indicator in watchlist.indicators],
                at_once=config.at_once,
                part_rows=part_rows,
            )
        )


async def _scored(rows: Sequence[Row], score: Scorer, indicators: Sequence[str]) -> list[dict[str, object]]:
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


def _columns(indicators: Sequence[str]) -> dict[str, str]:
    """What Arrow calls the type of each column of the result, by the column's name."""
    return {"row": "int64", "id": "string", **_types(indicators)}


def _types(indicators: Sequence[str]) -> dict[str, str]:
    """What Arrow calls the types of the columns after `row` and `id`."""
    each = {"score": "float64", "flagged": "bool", "probability": "float64", "skipped_reason": "string"}
    return {
        "verdict": "string",
        **{f"{name}.{part}": kind for name in indicators for part, kind in each.items()},
        "tokens": "int32",
        "truncated": "bool",
        "response_tokens_dropped": "int32",
        "error": "string",
    }
