"""Lines of the files of kept texts: one pair each, with all that it takes to read it again."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from scopewatch.events import PairScored
from scopewatch.types import NO_INPUTS, Caller, Pair, ScoreJob, TemplateInputs, Turn

_BLOCK_BYTES = 1 << 20
"""How much of a file is looked at together."""


def chars(pair: Pair) -> int:
    """About how many characters the line of a pair has."""
    turns = sum(len(turn.content) + len(turn.fields) for turn in pair.history)
    inputs = sum(map(len, asdict(pair.inputs).values()))
    # A token id and what is around it take about eight characters.
    ids = 8 * (len(pair.prompt_token_ids) + len(pair.response_token_ids))
    return 1 + len(pair.prompt) + len(pair.response) + turns + inputs + ids


def line_of(time: datetime, event: PairScored) -> bytes:
    """The line of a pair, with its line feed."""
    job, scored = event
    pair = job.pair
    row: dict[str, Any] = {
        "time": time.isoformat(timespec="milliseconds"),
        "request_id": job.request_id,
        "caller": job.caller.name,
        "tenant": job.caller.tenant,
        "watchlist": scored.watchlist,
        "verdict": scored.verdict,
        "prompt": pair.prompt,
        "response": pair.response,
        "history": [_without_empty(asdict(turn), "fields") for turn in pair.history],
    }
    if pair.inputs != NO_INPUTS:
        row["template_inputs"] = asdict(pair.inputs)
    for name in ("prompt_token_ids", "response_token_ids"):
        if ids := getattr(pair, name):
            row[name] = ids
    return json.dumps(row).encode() + b"\n"


def id_in_line(request_id: str) -> bytes:
    """What stands in the line of a pair with this id; in texts, whose quotes are escaped, it stands nowhere."""
    return f'"request_id": {json.dumps(request_id)}, "caller"'.encode()


def lines_with(file: Path, what: bytes) -> Iterator[bytes]:
    """The whole lines of a file that hold some bytes, the last one first; none of a file that is not there any more."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "rb") as stream:
        # Read block by block, since a find over all of a mapped file would hold up all other threads.
        end, after = os.fstat(descriptor).st_size, b""
        while end > 0:
            begin = max(0, end - _BLOCK_BYTES)
            block = os.pread(descriptor, end - begin, begin) + after
            at = len(block)
            while (at := block.rfind(what, 0, at)) >= 0:
                stream.seek(_begin_of_line(descriptor, begin + at))
                yield stream.readline()
            end, after = begin, block[: len(what) - 1]


def _begin_of_line(descriptor: int, at: int) -> int:
    """Where the line begins that holds the byte at an offset."""
    while at > 0:
        begin = max(0, at - _BLOCK_BYTES)
        feed = os.pread(descriptor, at - begin, begin).rfind(b"\n")
        if feed >= 0:
            return begin + feed + 1
        at = begin
    return 0


def kept_job(line: bytes, request_id: str, caller: Caller) -> ScoreJob | None:
    """The job of a line.

    Args:
        line: The line.
        request_id: The id of the pair that is looked for.
        caller: Who looks for it.

    Returns:
        The job; None where the line is of another pair or another tenant, is torn, or was changed by hand.
    """
    try:
        row = json.loads(line)
        # Before lines told the tenant, a caller can only be known by its name.
        owner = row["tenant"] == caller.tenant if "tenant" in row else row["caller"] == caller.name
        if row["request_id"] != request_id or not owner:
            return None
        pair = Pair(
            prompt=row["prompt"],
            response=row["response"],
            history=tuple(Turn(**turn) for turn in row["history"]),
            inputs=TemplateInputs(**row.get("template_inputs", {})),
            prompt_token_ids=tuple(row.get("prompt_token_ids", ())),
            response_token_ids=tuple(row.get("response_token_ids", ())),
        )
        return ScoreJob(pair, row["watchlist"], request_id, caller=caller)
    except (ValueError, KeyError, TypeError):
        return None


def _without_empty(fields: Mapping[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in fields.items() if value or key != name}
