"""The rows of a scan's result, and what made them.

Each row of the data files, which may hold all that `pairs.conversation` reads, becomes a row of the result:

    file, row, id      the file and the place in it, counted from 1 (the line of JSONL and CSV); null id where the row
                       cannot be read
    verdict            pass, flag or incomplete; null where the pair could not be scored
    incomplete         what was to be judged and was not read whole; null where all was
    {name}.score, {name}.flagged, {name}.probability, {name}.skipped_reason     of every indicator; a skipped one has no
                       score, and the probability is null where the watchlist maps none
    tokens, truncated, response_tokens_dropped
    error              why it could not be scored, as `reason: message`; else null
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import scopewatch
from scopewatch.identity import EngineIdentity
from scopewatch.lifecycle.chunks import Chunk
from scopewatch.pairs.left_out import LeftOut
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
        canonical = json.dumps([engine.decides, max_tokens], sort_keys=True).encode()
        digest = hashlib.sha256(canonical).hexdigest()
        return cls(watchlist.name, watchlist.digest, engine.reader.digest, digest)


def columns_of(indicators: Sequence[str]) -> dict[str, str]:
    """What Arrow calls the type of each column of the result, by the column's name."""
    return {"file": "string", "row": "int64", "id": "string", **_types(indicators)}


async def scored(
    chunks: Sequence[Chunk], score: Scorer, indicators: Sequence[str], at_once: int
) -> list[list[dict[str, object]]]:
    """The rows of the result for each chunk.

    Args:
        chunks: What was read.
        score: The online scorer.
        indicators: The names of the watchlist's indicators.
        at_once: The most pairs that the scorer is given in one call.

    Raises:
        ScopewatchError: The scorer failed altogether.
    """
    jobs = [item.found for chunk in chunks for item in chunk.items if isinstance(item.found, ScoreJob)]
    outcomes = iter(
        [
            outcome
            for first in range(0, len(jobs), at_once)
            for outcome in await answers(jobs[first : first + at_once], score)
        ]
    )
    found = []
    for chunk in chunks:
        rows = []
        for item in chunk.items:
            name, outcome = (
                (item.found.request_id, next(outcomes)) if isinstance(item.found, ScoreJob) else (None, item.found)
            )
            if not isinstance(outcome, (ScoredPair, LeftOut)):
                outcome = failure(f"{chunk.file}:{item.number}", outcome)
            told = (
                dict.fromkeys(_types(indicators)) | {"error": f"{outcome.reason}: {outcome.detail}"}
                if isinstance(outcome, LeftOut)
                else _result(outcome)
            )
            rows.append({"file": str(chunk.file), "row": item.number, "id": name, **told})
        found.append(rows)
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
