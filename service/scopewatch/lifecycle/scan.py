"""The online scorer over files of any size, in parts, so that what is done stays done.

Each row of the files, which may hold all that `pairs.conversation` reads, becomes a row of the result:

    file, row, id      the file and the place in it, counted from 1 (the line of JSONL and CSV); null id where the row
                       cannot be read
    verdict            pass, flag or incomplete; null where the pair could not be scored
    incomplete         what was to be judged and was not read whole; null where all was
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from tqdm import tqdm

import scopewatch
from scopewatch.app.load import Loaded, load
from scopewatch.app.spine import offline
from scopewatch.config import Config
from scopewatch.errors import DataError, NothingUsable
from scopewatch.identity import EngineIdentity
from scopewatch.lifecycle.parts import Parts, Scanned, parts_of
from scopewatch.lifecycle.rows import check_format
from scopewatch.lifecycle.until_signal import until_signal
from scopewatch.pairs.data_files import Reading, job_of
from scopewatch.pairs.left_out import LeftOut
from scopewatch.pairs.rows import RawRow, digest_of, rows_of
from scopewatch.pairs.scored import Scorer, answers, failure
from scopewatch.types import ScoreJob
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.watchlist import Watchlist


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


def check_out(data: Sequence[Path], out: Path, *, overwrite: bool) -> None:
    """Refuses a result that could not be written, or would take the place of something else.

    Raises:
        DataError: Names the file and the mend.
    """
    check_format(out)
    if not out.parent.is_dir():
        raise DataError(f"{out.parent}: no such folder")
    if out.is_dir():
        raise DataError(f"{out}: is a folder; give another --out")
    if out.exists() and any(file.exists() and out.samefile(file) for file in data):
        raise DataError(f"{out}: is the file to be scored; give another --out")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: exists already; give another --out, or --overwrite")


async def scan(
    data: Sequence[Path],
    out: Path,
    score: Scorer,
    *,
    origin: Origin,
    indicators: Sequence[str],
    at_once: int,
    part_rows: int = 1024,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Scanned:
    """Scores every row of files, or goes on where an earlier call was stopped.

    Args:
        data: The files to score.
        out: The file of the result, JSONL or Parquet; it is replaced when all is done.
        score: The online scorer.
        origin: What the scorer scores with.
        indicators: The names of the watchlist's indicators.
        at_once: The most pairs that the scorer is given in one call.
        part_rows: How many rows are saved together.
        reading: How the files are read.

    Raises:
        DataError: A file cannot be read or written, or an earlier call began with something else; or with `strict` a
            row that cannot be scored.
        ScopewatchError: The scorer failed altogether; what is finished stays.
    """
    try:
        made_of = {**asdict(origin), "data_digest": _digest(data), "part_rows": part_rows}
        made_of |= {"columns": asdict(reading.columns)}
        with Parts.open(parts_of(out), made_of) as parts:
            done = parts.done * part_rows
            rows = islice(rows_of(data, reading.columns), done, None)
            with tqdm(desc="scoring", unit="row", initial=done, disable=None) as bar:
                while part := list(islice(rows, part_rows)):
                    chunks = [part[first : first + at_once] for first in range(0, len(part), at_once)]
                    parts.add([row for chunk in chunks for row in await _scored(chunk, score, indicators, reading)])
                    bar.update(len(part))
            if not parts.done:
                raise NothingUsable(f"{', '.join(map(str, data))}: holds no rows")
            return parts.join(out, _columns(indicators), asdict(origin))
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from None


def scan_files(
    data: Sequence[Path], out: Path, config: Config, *, part_rows: int, reading: Reading
) -> Scanned | signal.Signals:
    """Loads what the settings name and scores every row of files, until all is done or a signal stops it.

    Args:
        data: The files to score.
        out: The file of the result, JSONL or Parquet.
        config: The settings, with a single watchlist.
        part_rows: How many rows are saved together.
        reading: How the files are read.

    Raises:
        ScopewatchError: As `scan` does, or something cannot be loaded.
    """
    loaded = load(config.model_copy(update={"shadow": ()}))
    return asyncio.run(_scan_until_stopped(data, out, config, loaded, part_rows=part_rows, reading=reading))


async def _scan_until_stopped(
    data: Sequence[Path], out: Path, config: Config, loaded: Loaded, *, part_rows: int, reading: Reading
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
                reading=reading,
            )
        )


def _digest(data: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files."""
    return hashlib.sha256("".join(f"{file}\n{digest_of(file)}\n" for file in data).encode()).hexdigest()


async def _scored(
    rows: Sequence[RawRow], score: Scorer, indicators: Sequence[str], reading: Reading
) -> list[dict[str, object]]:
    read = [job_of(row, reading.columns) for row in rows]
    outcomes = iter(await answers([item for item in read if isinstance(item, ScoreJob)], score))
    found = []
    for row, item in zip(rows, read, strict=True):
        name, outcome = (item.request_id, next(outcomes)) if isinstance(item, ScoreJob) else (None, item)
        if not isinstance(outcome, (ScoredPair, LeftOut)):
            outcome = failure(row.place, outcome)
        if isinstance(outcome, LeftOut):
            said = f"{reading.checked(outcome).reason}: {outcome.detail}"
            result: dict[str, object] = dict.fromkeys(_types(indicators)) | {"error": said}
        else:
            result = _result(outcome)
        found.append({"file": str(row.file), "row": row.number, "id": name, **result})
    return found


def _result(outcome: ScoredPair) -> dict[str, object]:
    found: dict[str, object] = {
        "verdict": outcome.verdict.value,
        "incomplete": " ".join(outcome.judgement.incomplete) or None,
    }
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
    return {"file": "string", "row": "int64", "id": "string", **_types(indicators)}


def _types(indicators: Sequence[str]) -> dict[str, str]:
    """What Arrow calls the types of the columns after `id`."""
    each = {"score": "float64", "flagged": "bool", "probability": "float64", "skipped_reason": "string"}
    return {
        "verdict": "string",
        "incomplete": "string",
        **{f"{name}.{part}": kind for name in indicators for part, kind in each.items()},
        "tokens": "int32",
        "truncated": "bool",
        "response_tokens_dropped": "int32",
        "error": "string",
    }
