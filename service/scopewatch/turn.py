"""A message of a conversation, as callers send it and as readers read it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation before the prompt."""

    role: str
    content: str
    fields: str = ""
    """The message's other fields, such as `tool_calls`, as a JSON object; empty where it has none."""
