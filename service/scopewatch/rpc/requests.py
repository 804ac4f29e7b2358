"""From a request message to a job, and every way a request can be wrong."""

import uuid
from dataclasses import dataclass

from scopewatch.config import Config
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.types import Pair, ScoreJob, Turn
from scopewatch.v1 import monitor_pb2 as pb

MAX_VIOLATIONS = 10
"""Fields named in one answer; more would not fit into the 8 KiB of trailing metadata that clients accept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; GetInfo reports it."""

    max_message_bytes: int
    max_text_chars: int
    max_batch_items: int
    max_labels: int
    max_label_chars: int
    max_history_turns: int
    max_tokens: int

    @classmethod
    def of(cls, config: Config, *, max_tokens: int) -> "Limits":
        """The configured limits; `max_tokens` as far as the reader's context allows."""
        names = set(cls.__dataclass_fields__) - {"max_tokens"}
        return cls(max_tokens=max_tokens, **{name: getattr(config, name) for name in names})


def to_job(request: pb.ScoreRequest, limits: Limits, deadline_s: float | None) -> ScoreJob:
    """Validates one request.

    Raises:
        InvalidRequest: Names every field that is wrong, up to `MAX_VIOLATIONS`.
    """
    if violations := _violations(request, limits):
        if (more := len(violations) - MAX_VIOLATIONS) > 0:
            violations[MAX_VIOLATIONS:] = [FieldViolation("request", f"{more} more mistakes are not listed")]
        raise InvalidRequest(*violations)
    return ScoreJob(
        pair=Pair(
            prompt=request.prompt,
            response=request.response,
            history=tuple([Turn(turn.role, turn.content) for turn in request.history]),
        ),
        watchlist=request.watchlist,
        request_id=request.request_id or str(uuid.uuid4()),
        include_evidence=request.include_evidence,
        labels=dict(request.labels),
        deadline_s=deadline_s,
    )


def check_batch(request: pb.BatchScoreRequest, limits: Limits) -> None:
    """Checks what concerns the batch as a whole.

    Raises:
        InvalidRequest: Empty, or more items than allowed.
    """
    count = len(request.requests)
    if not count:
        raise InvalidRequest(FieldViolation("requests", "must hold at least one request"))
    if count > limits.max_batch_items:
        raise InvalidRequest(
            FieldViolation("requests", f"holds {count} requests; at most {limits.max_batch_items} are allowed")
        )


def _violations(request: pb.ScoreRequest, limits: Limits) -> list[FieldViolation]:
    found = _text("prompt", request.prompt, limits) + _text("response", response := request.response, limits)
    if not response or response.isspace():
        found.append(FieldViolation("response", "is empty; there is nothing to score"))
    found += _count("history", len(request.history), "turns", limits.max_history_turns)
    for index, turn in enumerate(request.history[: limits.max_history_turns]):
        if not turn.role:
            found.append(FieldViolation(f"history[{index}].role", "is empty; write user, assistant or system"))
        found += _count(f"history[{index}].role", len(turn.role), "characters", limits.max_label_chars)
        found += _text(f"history[{index}].content", turn.content, limits)
    found += _count("labels", len(request.labels), "entries", limits.max_labels)
    for key, value in request.labels.items():
        found += _count(f"labels[{key[:20]}]", max(len(key), len(value)), "characters", limits.max_label_chars)
    found += _count("request_id", len(request.request_id), "characters", limits.max_label_chars)
    return found + _count("watchlist", len(request.watchlist), "characters", limits.max_label_chars)


def _text(field: str, text: str, limits: Limits) -> list[FieldViolation]:
    found = _count(field, len(text), "characters", limits.max_text_chars)
    if (at := text.find("\0")) >= 0:
        found.append(FieldViolation(field, f"holds a NUL character at offset {at}; remove it"))
    return found


def _count(field: str, count: int, unit: str, most: int) -> list[FieldViolation]:
    return [FieldViolation(field, f"holds {count} {unit}; at most {most} are allowed")] if count > most else []
