"""From a request message to a job, and every way a request can be wrong."""

import uuid
from dataclasses import dataclass

from scopewatch.config import Config
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.types import Pair, ScoreJob, Turn
from scopewatch.v1 import monitor_pb2 as pb


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
        InvalidRequest: Names every field that is wrong.
    """
    violations = list(_violations(request, limits))
    if violations:
        raise InvalidRequest(*violations)
    return ScoreJob(
        pair=Pair(
            prompt=request.prompt,
            response=request.response,
            history=tuple(Turn(turn.role, turn.content) for turn in request.history),
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
            FieldViolation(
                "requests", f"holds {count} requests; at most {limits.max_batch_items} are allowed"
            )
        )


def _violations(request: pb.ScoreRequest, limits: Limits) -> "list[FieldViolation]":
    found: list[FieldViolation] = []

    def check_length(field: str, text: str, most: int) -> None:
        if len(text) > most:
            found.append(FieldViolation(field, f"holds {len(text)} characters; at most {most} are allowed"))

    def check_text(field: str, text: str) -> None:
        check_length(field, text, limits.max_text_chars)
        if (at := text.find("\0")) >= 0:
            found.append(FieldViolation(field, f"holds a NUL character at offset {at}; remove it"))

    check_text("prompt", request.prompt)
    check_text("response", request.response)
    if not request.response.strip():
        found.append(FieldViolation("response", "is empty; there is nothing to score"))
    if len(request.history) > limits.max_history_turns:
        most = limits.max_history_turns
        found.append(
            FieldViolation("history", f"holds {len(request.history)} turns; at most {most} are allowed")
        )
    for index, turn in enumerate(request.history[: limits.max_history_turns]):
        if not turn.role:
            found.append(
                FieldViolation(f"history[{index}].role", "is empty; write user, assistant or system")
            )
        check_length(f"history[{index}].role", turn.role, limits.max_label_chars)
        check_text(f"history[{index}].content", turn.content)
    if len(request.labels) > limits.max_labels:
        found.append(
            FieldViolation(
                "labels", f"holds {len(request.labels)} entries; at most {limits.max_labels} are allowed"
            )
        )
    for key, value in request.labels.items():
        if max(len(key), len(value)) > limits.max_label_chars:
            shown = key[: min(40, limits.max_label_chars)]
            found.append(
                FieldViolation(f"labels[{shown}]", f"is longer than {limits.max_label_chars} characters")
            )
            break
    for field in ("request_id", "watchlist"):
        check_length(field, getattr(request, field), limits.max_label_chars)
    return found
