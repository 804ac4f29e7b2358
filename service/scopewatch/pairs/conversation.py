"""Conversations as logs and data sets hold them: OpenAI's messages and calls, ShareGPT's turns, or prompt and response.

The judged response is the last message of the assistant; what follows it is dropped. The order of what stands before is
kept: a user message directly before the response is the prompt, all else is history. So where a tool's result stands
directly before the response, the prompt is empty, and there is no user turn between the two.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scopewatch.pairs import cells
from scopewatch.pairs.columns import TOKENS, Columns, Row, find, listed
from scopewatch.types import Pair, TemplateInputs, Turn

_SHARE_GPT = {"human": "user", "gpt": "assistant"}
"""What ShareGPT calls those who speak."""
_TEXT_PARTS = ("text", "input_text", "output_text")
_TURNS = "expected a list of turns with role and content"


class NoText(ValueError):
    """A row that holds no text to judge."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A response and what stands before it; the response is empty where the row holds none."""

    prompt: str
    response: str
    history: tuple[Turn, ...]
    place: str
    """Where in the row the response stands."""

    @classmethod
    def answered(cls, before: list[Turn], response: str, place: str) -> "Conversation":
        """The conversation in which the response follows these messages."""
        if before and before[-1].role == "user":
            return cls(before[-1].content, response, tuple(before[:-1]), place)
        return cls("", response, tuple(before), place)


def pair_of(row: object, columns: Columns) -> Pair:
    """The pair that a row holds.

    Args:
        row: What the row holds, as JSON has it.
        columns: Where in the row the parts of the pair stand.

    Raises:
        NoText: The row holds no text to judge, as a call of a tool does not.
        ValueError: Names the field that is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError("expected an object with response or messages")  # noqa: TRY004 - one kind for the caller
    found = _conversation(row, columns)
    prompt_ids, response_ids = (cells.token_ids(row.get(name), name) for name in TOKENS)
    if not found.response.strip() and not response_ids:
        known = any(name in row or name.partition(".")[0] in row for name in columns.judged)
        there = "" if known else f"; there are: {listed(row)}"
        raise NoText(f"{found.place}: expected text that is not empty{there}")
    return Pair(found.prompt, found.response, found.history, _template_inputs(row), prompt_ids, response_ids)


def _conversation(row: Row, columns: Columns) -> Conversation:
    request, answer = _request(row), find(row, columns.response)
    if answer is None and "choices" in row:
        answer = row
    messages = None if request is None else turns_of(request["messages"], "request.messages")
    if isinstance(answer, Mapping):
        before = messages if messages is not None else _before(row, columns)
        return Conversation.answered(
            _with_system(request or {}, before), _choice(answer).content, "response.choices[0].message.content"
        )
    response = cells.text(answer, columns.response)
    if messages is not None:
        return Conversation.answered(_with_system(request or {}, messages), response, columns.response)
    name = next((name for name in columns.conversations if find(row, name) is not None), "")
    flat = any(find(row, column) is not None for column in (columns.prompt, columns.history))
    if not name or (flat and response):
        history = turns_of(find(row, columns.history), columns.history)
        prompt = cells.text(find(row, columns.prompt), columns.prompt)
        return Conversation(prompt, response, tuple(history), columns.response)
    # Elsewhere a column `system` often says which system answered.
    holder = row if name == "conversations" else {}
    turns = turns_of(find(row, name), name)
    if response:
        return Conversation.answered(
            _with_system(holder, _unanswered(turns, response, name)), response, columns.response
        )
    last = next((place for place in reversed(range(len(turns))) if turns[place].role == "assistant"), None)
    if last is None:
        raise NoText(f"{name}: no message is an assistant's; there is no text to judge")
    return Conversation.answered(_with_system(holder, turns[:last]), turns[last].content, f"{name}[{last}].content")


def _template_inputs(row: Row) -> TemplateInputs:
    """What the row, or the request that it holds, says that the chat template was given beside the messages."""
    request = _request(row) or {}

    def cell(name: str) -> object:
        return row.get(name) if request.get(name) is None else request[name]

    return TemplateInputs(
        date=cells.day(cell("date"), "date"),
        tools=cells.json_array(cell("tools"), "tools"),
        documents=cells.json_array(cell("documents"), "documents"),
        arguments=cells.json_object(cell("chat_template_kwargs"), "chat_template_kwargs"),
    )


def turns_of(value: object, name: str) -> list[Turn]:
    """Messages as turns: role and content, or ShareGPT's `from` and `value`, and all other fields as a JSON object.

    Args:
        value: A list of messages, or one as JSON text; None for no message.
        name: The place of the list in the row, for messages.

    Raises:
        ValueError: Names the message that is wrong.
    """
    messages = [] if value is None else value
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = cells.parsed(messages, name)
    if not isinstance(messages, list):
        raise ValueError(f"{name}: {_TURNS}")  # noqa: TRY004 - one kind for the caller
    return [_turn(message, f"{name}[{index}]") for index, message in enumerate(messages)]


def _request(row: Row) -> dict[str, Any] | None:
    """The logged request that a row holds, `request` or, as the batch API calls it, `body`."""
    for name in ("request", "body"):
        request = cells.parsed_object(row.get(name))
        request = cells.parsed_object(request.get("body")) or request
        if request.get("messages") is not None:
            return request
    return None


def _choice(response: Mapping[str, Any]) -> Turn:
    """The one answer of a logged response, `{"choices": [{"message": ...}]}`, or with this as its `body`."""
    choices = (response if "choices" in response else cells.parsed_object(response.get("body"))).get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("response: expected text, or an object with choices")
    if len(choices) > 1:
        raise ValueError(f"response.choices: holds {len(choices)} answers; write a row for each")
    message = choices[0].get("message") if isinstance(choices[0], dict) else None
    if not isinstance(message, dict):
        raise ValueError("response.choices[0].message: expected an object with role and content")  # noqa: TRY004
    return _turn({"role": "assistant"} | message, "response.choices[0].message")


def _before(row: Row, columns: Columns) -> list[Turn]:
    """The messages of a row that holds a logged response, but no request."""
    name = next((name for name in columns.conversations if find(row, name) is not None), "")
    if name:
        return turns_of(find(row, name), name)
    prompt = cells.text(find(row, columns.prompt), columns.prompt)
    history = turns_of(find(row, columns.history), columns.history)
    return [*history, Turn("user", prompt)] if prompt else history


def _with_system(holder: Row, turns: list[Turn]) -> list[Turn]:
    """The messages behind the system message that stands beside them, if one does."""
    system = _content(holder.get("system"), "system")
    return [Turn("system", system), *turns] if system and not (turns and turns[0].role == "system") else turns


def _unanswered(turns: list[Turn], response: str, name: str) -> list[Turn]:
    """The messages before a response that the row gives beside them, whether they end with it or not."""
    if not turns or turns[-1].role != "assistant":
        return turns
    if turns[-1].content.strip() != response.strip():
        raise ValueError(f"{name}: ends with another answer than the row's response; leave one of them out")
    return turns[:-1]


def _turn(message: object, name: str) -> Turn:
    if not isinstance(message, dict):
        raise ValueError(f"{name}: expected an object with role and content")  # noqa: TRY004
    share_gpt = "role" not in message and "from" in message
    role, content = ("from", "value") if share_gpt else ("role", "content")
    speaker = cells.text(message.get(role), f"{name}.{role}")
    if not speaker:
        raise ValueError(f"{name}: a turn has no role; write user, assistant or system")
    return Turn(
        _SHARE_GPT.get(speaker, speaker) if share_gpt else speaker,
        _content(message.get(content), f"{name}.{content}"),
        _fields({key: value for key, value in message.items() if key not in {role, content}}, name),
    )


def _content(value: object, name: str) -> str:
    """The text of a message: its text, or its text parts, one a line."""
    if not isinstance(value, list):
        return cells.text(value, name)
    return "\n".join(_part(part, f"{name}[{index}]") for index, part in enumerate(value))


def _part(part: object, name: str) -> str:
    if isinstance(part, str):
        return cells.text(part, name)
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or kind not in _TEXT_PARTS:
        raise ValueError(f"{name}: a part of type {kind!r}; only text is read")
    return cells.text(part.get("text"), f"{name}.text")


def _fields(fields: dict[str, object], name: str) -> str:
    """The other fields of a message that hold something, as a JSON object; empty where there are none."""
    found = {key: value for key, value in fields.items() if value is not None}
    return cells.json_text(found, name) if found else ""
