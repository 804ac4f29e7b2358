"""Request messages from plain values: texts, messages as OpenAI's API has them, template inputs and token ids."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.turn import Turn
from scopewatch.v1 import monitor_pb2 as pb


class InputFields(TypedDict, total=False):
    """What the chat template was given beside the messages; where a field is missing, the reader's settings decide."""

    date: str
    """The day that the template was told it is, `YYYY-MM-DD`."""
    tools: Sequence[Mapping[str, Any]]
    """The tools that the model was offered."""
    documents: Sequence[Mapping[str, Any]]
    """The documents that the model was given."""
    arguments: Mapping[str, Any]
    """The template's other arguments, for instance `{"enable_thinking": False}`."""


class ScoreFields(TypedDict, total=False):
    """The fields of one request; only `response` has to be there, or `response_token_ids`."""

    prompt: str
    response: str
    history: Sequence[Turn | Mapping[str, Any]]
    """Messages before the prompt, oldest first. A mapping is a message of OpenAI's API: its content may be None or a
    list of text parts, and it may have other fields, of which those that are None are left out."""
    watchlist: str
    labels: Mapping[str, str]
    include_evidence: bool
    request_id: str
    template_inputs: InputFields
    prompt_token_ids: Sequence[int]
    """The tokens that the serving engine gave the model, template included."""
    response_token_ids: Sequence[int]
    """The tokens that the model wrote."""


def request(**fields: Unpack[ScoreFields]) -> pb.ScoreRequest:
    """Builds a request message from the fields of a request.

    Raises:
        InvalidRequest: A field cannot be sent; names it.
    """
    given: Mapping[str, Any] = fields
    turns = [_turn(turn, f"history[{index}]") for index, turn in enumerate(given.get("history", ()))]
    inputs = _inputs(given.get("template_inputs") or {})
    labels = given.get("labels", {})
    texts = {name: given.get(name, "") for name in ("prompt", "response", "watchlist", "request_id")}
    _check_texts(
        texts
        | {f"history[{index}].{name}": text for index, turn in enumerate(turns) for name, text in turn.items()}
        | {f"labels[{index}]": key + value for index, (key, value) in enumerate(labels.items())}
        | {f"template_inputs.{name}": text for name, text in inputs.items()}
    )
    message = pb.ScoreRequest(
        **texts,
        history=[pb.Turn(**turn) for turn in turns],
        labels=labels,
        include_evidence=given.get("include_evidence", False),
        template_inputs=pb.TemplateInputs(**inputs) if inputs else None,
    )
    for name in ("prompt_token_ids", "response_token_ids"):
        try:
            getattr(message, name).extend(given.get(name, ()))
        except (TypeError, ValueError):
            raise _refused(name, "holds what is no token id; they are whole numbers from 0 to 4294967295") from None
    return message


def _turn(turn: Turn | Mapping[str, Any], field: str) -> dict[str, Any]:
    """The fields of the message for one turn, by name."""
    if isinstance(turn, Turn):
        return {"role": turn.role, "content": turn.content, "fields_json": turn.fields}
    others = {name: value for name, value in turn.items() if name not in {"role", "content"} and value is not None}
    return {
        "role": turn.get("role", ""),
        "content": _content(turn.get("content"), f"{field}.content"),
        "fields_json": _json(others, f"{field}.fields_json") if others else "",
    }


def _content(content: object, field: str) -> object:
    """The text of a message; what is neither text nor parts comes back as it is."""
    if not isinstance(content, list | tuple):
        return "" if content is None else content
    texts: list[str] = []
    for index, part in enumerate(content):
        text = part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise _refused(f"{field}[{index}]", "is not text; a reader reads text alone")
        texts.append(text)
    return "\n".join(texts)


def _inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the message for template inputs, by name; those that are None are left out."""
    if unknown := sorted(set(inputs) - InputFields.__annotations__.keys()):
        raise _refused(f"template_inputs.{unknown[0]}", f"is none of {', '.join(InputFields.__annotations__)}")
    given = {name: value for name, value in inputs.items() if value is not None}
    date = {"date": given.pop("date")} if "date" in given else {}
    return date | {f"{name}_json": _json(value, f"template_inputs.{name}_json") for name, value in given.items()}


def _json(value: object, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(field, f"cannot be written as JSON: {error}") from None


def _check_texts(texts: Mapping[str, object]) -> None:
    wrong: list[FieldViolation] = []
    for name, text in texts.items():
        if not isinstance(text, str):
            wrong.append(FieldViolation(name, f"is of type {type(text).__name__}; expected text"))
        elif not _encodable(text):
            wrong.append(FieldViolation(name, "holds a lone surrogate, which is not valid Unicode text; remove it"))
    if wrong:
        raise InvalidRequest(*wrong)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(field, why))


def in_batches(requests: Sequence[pb.ScoreRequest], limits: pb.Limits) -> Iterator[list[pb.ScoreRequest]]:
    """The requests in batches whose messages a server with these limits accepts."""
    batch: list[pb.ScoreRequest] = []
    size = 0
    for request in requests:
        # A request in a message is preceded by the field's tag and its length.
        cost = request.ByteSize() + 8
        if batch and (len(batch) == limits.max_batch_items or size + cost > limits.max_message_bytes):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += cost
    if batch:
        yield batch
