"""Messages whose roles a chat template refuses, folded into others."""

from collections.abc import Iterable
from typing import Any

from scopewatch.reader.text.traced import Traced

Messages = list[dict[str, Any]]
_FOLDED = ("system", "developer")
_BETWEEN = "\n\n"
"""What stands between two messages of which one was folded into the other."""


def as_they_are(messages: Messages) -> Messages:
    return messages


def without_system(messages: Messages) -> Messages:
    """The messages with those of the system in front of the next user message."""
    folded: Messages = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] in _FOLDED:
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            folded.append({**message, "content": _together([*waiting, message["content"]])})
            waiting = []
        else:
            folded.append(message)
    return [*folded, {"role": "user", "content": _together(waiting)}] if waiting else folded


def alternating(messages: Messages) -> Messages:
    """The messages as a user and an assistant by turns, the user first: whatever is neither is the user's."""
    folded: Messages = []
    for message in without_system(messages):
        role = "assistant" if message["role"] in {"assistant", "model"} else "user"
        if folded and folded[-1]["role"] == role:
            folded[-1] = folded[-1] | {"content": _together([folded[-1]["content"], message["content"]])}
        else:
            # Without other fields, such as `tool_calls`: it may be these that the template refuses.
            folded.append({"role": role, "content": message["content"]})
    return folded if folded[0]["role"] == "user" else [{"role": "user", "content": ""}, *folded]


def _together(contents: Iterable[str]) -> str:
    return Traced(_BETWEEN).join(content for content in contents if content)
