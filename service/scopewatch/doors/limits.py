"""What a caller may send, whichever door it comes by; every way a request can be wrong is found here."""

from collections.abc import Callable
from dataclasses import dataclass

from scopewatch.config import Config
from scopewatch.doors.template_json import arguments_mistake, fields_mistake, list_mistake
from scopewatch.errors import FieldViolation, InvalidRequest, UnknownWatchlist
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.sources import is_day
from scopewatch.types import NO_INPUTS, ROLE, Pair, ScoreJob, TemplateInputs, Turn

MAX_VIOLATIONS = 10
"""The most fields named in one answer; more would not fit into the 8 KiB of trailing metadata that clients accept."""


_LEAST_FIELDS = 1 << 16
"""What every message may hold: clients that do not pack token ids send each as a field."""


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

    @property
    def max_fields(self) -> int:
        """How many fields a message may hold, on all levels together: as many as its other limits make of it."""
        own, of_turn, of_label = 16, 4, 3
        request = own + of_turn * self.max_history_turns + of_label * self.max_labels
        return max(_LEAST_FIELDS, self.max_batch_items * request)

    @classmethod
    def of(cls, config: Config, *, max_tokens: int) -> "Limits":
        """The configured limits; `max_tokens` as far as the reader's context allows."""
        names = set(cls.__dataclass_fields__) - {"max_tokens", "max_windows"}
        return cls(max_tokens=max_tokens, max_windows=config.windows, **{name: getattr(config, name) for name in names})


@dataclass(frozen=True, slots=True)
class Sent:
    """What a caller sent, as far as a job does not tell."""

    own_id: str
    """What the caller named the request; empty if the id was made here."""
    turns: int
    """The number of turns in the history; the job holds no more of them than are allowed."""
    token_ids: int
    """The number of token ids of prompt and response; the job holds no more of either than are allowed."""


def check_job(job: ScoreJob, sent: Sent, limits: Limits, watchlists: WatchlistSet) -> None:
    """Checks one pair.

    Args:
        job: The job.
        sent: What the caller sent beyond it.
        limits: What one request may hold.
        watchlists: The watchlists that the job may name.

    Raises:
        UnknownWatchlist: No such watchlist is loaded, and that is all that is wrong.
        InvalidRequest: Names every field that is wrong, up to `MAX_VIOLATIONS`.
    """
    violations = _violations(job, sent, limits)
    wrong: type[InvalidRequest] = InvalidRequest
    if len(job.watchlist) <= limits.max_label_chars:
        try:
            watchlists.named(job.watchlist)
        except UnknownWatchlist as error:
            wrong = InvalidRequest if violations else UnknownWatchlist
            violations += error.violations
    if (more := len(violations) - MAX_VIOLATIONS) > 0:
        violations[MAX_VIOLATIONS:] = [FieldViolation("request", f"{more} more mistakes are not listed")]
    if violations:
        raise wrong(*violations)


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


def _violations(job: ScoreJob, sent: Sent, limits: Limits) -> list[FieldViolation]:
    found: list[FieldViolation] = []
    _check_pair(found, job.pair, sent, limits)
    if job.pair.inputs is not NO_INPUTS:
        _check_inputs(found, job.pair.inputs, limits)
    _check_count(found, "labels", len(job.labels), "entries", limits.max_labels)
    for key, value in job.labels.items():
        longest = max(len(key), len(value))
        _check_count(found, f"labels[{key[:20]}]", longest, "characters", limits.max_label_chars)
    _check_count(found, "request_id", len(sent.own_id), "characters", limits.max_label_chars)
    _check_count(found, "watchlist", len(job.watchlist), "characters", limits.max_label_chars)
    return found


def _check_pair(found: list[FieldViolation], pair: Pair, sent: Sent, limits: Limits) -> None:
    _check_text(found, "prompt", pair.prompt, limits)
    _check_text(found, "response", pair.response, limits)
    if (not pair.response or pair.response.isspace()) and not pair.response_token_ids:
        found.append(FieldViolation("response", "is empty; there is nothing to score"))
    _check_count(found, "history", sent.turns, "turns", limits.max_history_turns)
    for index, turn in enumerate(pair.history):
        _check_turn(found, f"history[{index}]", turn, limits)
    if sent.token_ids > limits.max_text_chars:
        longer = max("response_token_ids", "prompt_token_ids", key=lambda name: len(getattr(pair, name)))
        unit = "token ids, those of the other text included"
        _check_count(found, longer, sent.token_ids, unit, limits.max_text_chars)


def _check_turn(found: list[FieldViolation], field: str, turn: Turn, limits: Limits) -> None:
    _check_count(found, f"{field}.role", len(turn.role), "characters", limits.max_label_chars)
    if not turn.role:
        found.append(FieldViolation(f"{field}.role", "is empty; write user, assistant or system"))
    elif not ROLE.fullmatch(turn.role):
        found.append(FieldViolation(f"{field}.role", "may hold letters, digits, _, -, . and, inside, spaces only"))
    _check_text(found, f"{field}.content", turn.content, limits)
    _check_json(found, f"{field}.fields_json", turn.fields, fields_mistake, limits)


def _check_inputs(found: list[FieldViolation], inputs: TemplateInputs, limits: Limits) -> None:
    if inputs.date and not is_day(inputs.date):
        found.append(FieldViolation("template_inputs.date", "is not a day of the calendar; write YYYY-MM-DD"))
    _check_json(found, "template_inputs.tools_json", inputs.tools, list_mistake, limits)
    _check_json(found, "template_inputs.documents_json", inputs.documents, list_mistake, limits)
    _check_json(found, "template_inputs.arguments_json", inputs.arguments, arguments_mistake, limits)


def _check_json(
    found: list[FieldViolation], field: str, text: str, mistake: Callable[[str], str], limits: Limits
) -> None:
    _check_count(found, field, len(text), "characters", limits.max_text_chars)
    if text and len(text) <= limits.max_text_chars and (said := mistake(text)):
        found.append(FieldViolation(field, said))


def _check_text(found: list[FieldViolation], field: str, text: str, limits: Limits) -> None:
    _check_count(found, field, len(text), "characters", limits.max_text_chars)
    if (at := text.find("\0")) >= 0:
        found.append(FieldViolation(field, f"holds a NUL character at offset {at}; remove it"))


def _check_count(found: list[FieldViolation], field: str, count: int, unit: str, most: int) -> None:
    if count > most:
        found.append(FieldViolation(field, f"holds {count} {unit}; at most {most} are allowed"))
