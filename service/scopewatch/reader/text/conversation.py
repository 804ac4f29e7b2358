"""What stands before an answer: a conversation as the serving model was given it, and whose each character is."""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from typing import Any

from scopewatch.errors import FieldViolation, InvalidRequest
from scopewatch.reader.text.chat_template import ChatTemplate, TemplateError
from scopewatch.reader.text.folding import Messages, alternating, as_they_are, without_system
from scopewatch.reader.text.traced import NO_SEGMENT, Piece, Traced, joined, pieces_of, traced
from scopewatch.reader.text.vocabulary import Vocabulary
from scopewatch.sources import TODAY, Rendering, is_day, today
from scopewatch.types import ROLE, Pair, TemplateInputs, Turn

_ROLES = {"user", "assistant", "system", "developer", "tool", "function", "ipython", "model"}
"""Roles that templates make control tokens of."""
_ASKED = ("user", "tool", "function", "ipython")
"""Roles of messages that a model answers."""
_MARK = "\ufdd0"
"""What parts a control token that a caller wrote, so that the template cannot put it together again."""
_MARKUP = re.compile(r"[^\w\s].*\w|\w.*[^\w\s]", re.DOTALL)
"""What a token is that opens or closes a turn, other than added tokens for words or white space."""


@dataclass(frozen=True, slots=True)
class Head:
    """Everything before the answer, in one text."""

    text: str
    """The text with its pieces, by the numbers of the turns; the prompt's is one more. Control tokens are stand-ins."""
    folded: bool = False
    """Whether the template refused the messages' roles, and messages were folded into others."""


class Conversations:
    """Renders what stands before an answer by the reader's chat template, or joins it where the reader has none.

    Args:
        vocabulary: The reader's tokenizer; its `guard` is called here where text is to be text.
        rendering: The reader's settings.
    """

    def __init__(self, vocabulary: Vocabulary, rendering: Rendering) -> None:
        self._vocabulary = vocabulary
        self._settings = rendering
        self._templates: dict[str, ChatTemplate] = {}
        self._special = dict(vocabulary.tokenizer.special_tokens_map)
        self._written = re.compile("(?!)")
        """What the template writes and is no text: control tokens, and marks in those of callers."""
        turn_tokens = self._turn_tokens() if self.has_template else set()
        names = {re.sub(r"^\W+|\W+$", "", str(token)) for token in [*turn_tokens, *self._special.values()]}
        self._no_roles = names - _ROLES
        """Names of control tokens, of which a template might make one where a role has such a name."""
        if rendering.special_tokens == "text":
            vocabulary.guard(turn_tokens)
            self._written = re.compile(f"{_MARK}|{vocabulary.control_tokens.pattern}")

    @property
    def has_template(self) -> bool:
        """Whether the reader has a chat template."""
        return self._vocabulary.tokenizer.chat_template is not None

    def inputs(self, own: TemplateInputs) -> dict[str, Any]:
        """What the template is given beside the messages, as plain values.

        Args:
            own: What the pair's caller gives; where that is empty, the reader's settings decide.

        Raises:
            InvalidRequest: What the caller gives is not what its field holds.
        """
        settings = self._settings
        day = own.date or settings.date
        tools, documents = (
            _read(getattr(own, name), f"template_inputs.{name}_json", list) or list(getattr(settings, name))
            for name in ("tools", "documents")
        )
        return {
            "date": _day(today() if day == TODAY else day),
            "tools": tools,
            "documents": documents,
            "arguments": settings.arguments | _read(own.arguments, "template_inputs.arguments_json", dict),
        }

    def render(self, pair: Pair) -> Head:
        """What stands before a pair's answer.

        Raises:
            InvalidRequest: The template refuses the messages, or one of them has no proper role.
        """
        if not self.has_template:
            return Head(self._guarded(self._plain(pair)))
        messages = [self._message(number, turn) for number, turn in enumerate(pair.history)]
        if pair.prompt or not messages or messages[-1]["role"] not in _ASKED:
            messages.append({"role": "user", "content": self._parted(traced(pair.prompt, len(pair.history)))})
        inputs = self.inputs(pair.inputs)
        refused = None
        for folded in (as_they_are, without_system, alternating) if self._settings.fold_system else (as_they_are,):
            try:
                text = self._apply(folded(messages), inputs)
                return Head(self._guarded(text), folded is not as_they_are)
            # A template is a program of its own, and may raise anything.
            except Exception as error:
                refused = refused or error
        raise InvalidRequest(FieldViolation("history", f"the reader's chat template refuses it: {_told(refused)}"))

    def template(self, *, tools: bool = False) -> ChatTemplate:
        """The chat template that transformers takes, which for some readers depends on whether there are tools.

        Raises:
            TemplateSyntaxError: The template is none.
            ValueError: The reader has several, and none for conversations without tools.
        """
        source = self._vocabulary.tokenizer.get_chat_template(tools=[{}] if tools else None)
        if source not in self._templates:
            self._templates[source] = ChatTemplate(source)
        return self._templates[source]

    def try_template(self) -> None:
        """Renders an ordinary message.

        Raises:
            TemplateSyntaxError: The template is none.
            TemplateError: It objects to the message.
            Exception: It is such that it cannot be run.
        """
        self._apply([{"role": "user", "content": traced("a", 0)}], self.inputs(TemplateInputs()))

    def _apply(self, messages: Messages, inputs: Mapping[str, Any]) -> str:
        tools, documents = (self._foreign(inputs[name]) or None for name in ("tools", "documents"))
        own = {"tools": tools, "documents": documents, "add_generation_prompt": True}
        variables = self._special | self._foreign(inputs["arguments"]) | own
        return self.template(tools=bool(tools)).render(messages, variables, date.fromisoformat(inputs["date"]))

    def _message(self, number: int, turn: Turn) -> dict[str, Any]:
        if not ROLE.fullmatch(turn.role) or turn.role in self._no_roles:
            raise InvalidRequest(
                FieldViolation(f"history[{number}].role", "is no role; write user, assistant or system")
            )
        fields = _as_taken(_read(turn.fields, f"history[{number}].fields_json", dict))
        message: dict[str, Any] = self._foreign({name: value for name, value in fields.items() if value is not None})
        return message | {"role": turn.role, "content": self._parted(traced(turn.content, number))}

    def _plain(self, pair: Pair) -> str:
        parts = [*(turn.content for turn in pair.history), pair.prompt]
        texts = [self._parted(traced(part, number)) for number, part in enumerate(parts) if part]
        # The separator stands between the prompt and the answer too.
        return joined(part for text in texts for part in (text, self._settings.separator))

    def _foreign(self, value: Any) -> Any:
        """A value of the caller's, or the operator's, that is no message: it is read, and of no segment."""
        return _every_text(traced(value, NO_SEGMENT), self._parted)

    def _parted(self, text: str) -> str:
        """The text with a mark inside each control token that stands in it."""
        found = list(self._vocabulary.control_tokens.finditer(text))
        return Traced(_MARK).join(text[a:b] for a, b in _cuts(found, len(text))) if found else text

    def _guarded(self, text: str) -> str:
        """The text with stand-ins for the control tokens that are the template's, and without marks."""
        pieces = pieces_of(text)
        starts = [piece.start for piece in pieces]
        parts: list[str] = []
        moved: list[Piece] = []
        place, moving, shift = 0, 0, 0
        match = self._written.search(text)
        while match:
            behind = bisect_left(starts, match.end())
            if behind and pieces[behind - 1].end > match.start():
                match = self._written.search(text, match.start() + 1)
                continue
            moved += (_moved(piece, shift) for piece in pieces[moving:behind])
            written = "" if match[0] == _MARK else self._vocabulary.stand_in(match[0])
            parts += (str.__str__(text)[place : match.start()], written)
            place, moving, shift = match.end(), behind, shift + len(written) - len(match[0])
            match = self._written.search(text, place)
        parts.append(str.__str__(text)[place:])
        return Traced.of("".join(parts), [*moved, *(_moved(piece, shift) for piece in pieces[moving:])])

    def _turn_tokens(self) -> set[str]:
        """The added tokens that the template writes around messages; some readers call none of them special."""
        ordinary = [{"role": role, "content": traced(role, 0)} for role in ("user", "assistant", "user")]
        try:
            text = self.template().render(ordinary, self._special, date.min)
        except Exception:
            return set()  # Whoever loads the reader tries the template and says what is wrong.
        return {token for token in self._vocabulary.added_tokens if token in text and _MARKUP.search(token)}


def _as_taken(fields: dict[str, Any]) -> dict[str, Any]:
    """A message's fields as templates take them, and serving engines give them.

    An empty list of tool calls is none, and the arguments of a call are a mapping, where APIs have them as JSON text;
    what a model wrote that is no JSON stays text.
    """
    calls = fields.get("tool_calls")
    if not isinstance(calls, list):
        return fields
    taken = {name: value for name, value in fields.items() if name != "tool_calls"}
    return taken | {"tool_calls": [_call(call) for call in calls]} if calls else taken


def _call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return call
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return call
    return call | {"function": function | {"arguments": arguments}}


def _moved(piece: Piece, shift: int) -> Piece:
    return Piece(piece.start + shift, piece.end + shift, piece.source, piece.offset)


def _read(text: str, field: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """What a field holds as JSON; nothing where it is empty."""
    try:
        value = json.loads(text) if text else kind()
    except (ValueError, RecursionError):
        value = None
    items = value if kind is list and isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(item, dict) for item in items):
        wanted = "a JSON object" if kind is dict else "a JSON array of objects"
        raise InvalidRequest(FieldViolation(field, f"is not {wanted}"))
    return value


def _day(text: str) -> str:
    if not is_day(text):
        raise InvalidRequest(FieldViolation("template_inputs.date", "is no day; write YYYY-MM-DD"))
    return text


def _cuts(found: Sequence[re.Match[str]], length: int) -> Iterable[tuple[int, int]]:
    """The stretches of a text that is cut behind the first character of each match."""
    return pairwise([0, *(match.start() + 1 for match in found), length])


def _every_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, Traced):
        return change(value)
    if isinstance(value, Mapping):
        return {_every_text(key, change): _every_text(item, change) for key, item in value.items()}
    return [_every_text(item, change) for item in value] if isinstance(value, list) else value


def _told(error: Exception | None) -> str:
    if isinstance(error, TemplateError) and error.message:
        return error.message
    # Without the error's own words, which may hold a caller's.
    return type(error).__name__
