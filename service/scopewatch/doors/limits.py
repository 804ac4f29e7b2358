"""What a caller may send, whichever door it comes by; every way a request can be wrong is found here."""

from dataclasses import dataclass

from scopewatch.config import Config
from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.types import ScoreJob

MAX_VIOLATIONS = 10
"""The most fields named in one answer; more would not fit into the 8 KiB of trailing metadata that clients accept."""


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
    max_windows: int
    max_reply_bytes: int

    @classmethod
    def of(cls, config: Config, *, max_tokens: int) -> "Limits":
        """The configured limits; `max_tokens` as far as the reader's context allows."""
        names = set(cls.__dataclass_fields__) - {"max_tokens"}
        return cls(max_tokens=max_tokens, **{name: getattr(config, name) for name in names})


def check_job(job: ScoreJob, own_id: str, turns: int, limits: Limits) -> None:
    """Checks one pair.

    Args:
        job: The job, of whose history no more turns were read than are allowed.
        own_id: What the caller named the request; empty if the id was made here.
        turns: How many turns the caller sent.
        limits: What one request may hold.

    Raises:
        InvalidRequest: Names every field that is wrong, up to `MAX_VIOLATIONS`.
    """
    if violations := _violations(job, own_id, turns, limits):
        if (more := len(violations) - MAX_VIOLATIONS) > 0:
            violations[MAX_VIOLATIONS:] = [FieldViolation("request", f"{more} more mistakes are not listed")]
        raise InvalidRequest(*violations)


def check_batch(count: int, limits: Limits) -> None:
    """Checks how many pairs a batch holds.

    Raises:
        InvalidRequest: None, or more than allowed.
    """
    if not count:
        raise InvalidRequest(FieldViolation("requests", "must hold at least one request"))
    if count > limits.max_batch_items:
        raise InvalidRequest(
            FieldViolation("requests", f"holds {count} requests; at most {limits.max_batch_items} are allowed")
        )


def _violations(job: ScoreJob, own_id: str, turns: int, limits: Limits) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    pair = job.pair
    _check_text(found, "prompt", pair.prompt, limits)
    _check_text(found, "response", pair.response, limits)
    if not pair.response or pair.response.isspace():
        found.append(FieldViolation("response", "is empty; there is nothing to score"))
    _check_count(found, "history", turns, "turns", limits.max_history_turns)
    for index, turn in enumerate(pair.history):
        if not turn.role:
            found.append(FieldViolation(f"history[{index}].role", "is empty; write user, assistant or system"))
        _check_count(found, f"history[{index}].role", len(turn.role), "characters", limits.max_label_chars)
        _check_text(found, f"history[{index}].content", turn.content, limits)
    _check_count(found, "labels", len(job.labels), "entries", limits.max_labels)
    for key, value in job.labels.items():
        longest = max(len(key), len(value))
        _check_count(found, f"labels[{key[:20]}]", longest, "characters", limits.max_label_chars)
    _check_count(found, "request_id", len(own_id), "characters", limits.max_label_chars)
    _check_count(found, "watchlist", len(job.watchlist), "characters", limits.max_label_chars)
    return found


def _check_text(found: list[FieldViolation], field: str, text: str, limits: Limits) -> None:
    _check_count(found, field, len(text), "characters", limits.max_text_chars)
    if (at := text.find("\0")) >= 0:
        found.append(FieldViolation(field, f"holds a NUL character at offset {at}; remove it"))


def _check_count(found: list[FieldViolation], field: str, count: int, unit: str, most: int) -> None:
    if count > most:
        found.append(FieldViolation(field, f"holds {count} {unit}; at most {most} are allowed"))
