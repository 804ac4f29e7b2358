"""Explanations as messages and back: every field of `explanation.Explanation` has a namesake in its message.

An enumeration is a word in the one and a value in the other: `pass` is VERDICT_PASS, and no word the value 0.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from scopewatch.explanation import Explanation
from scopewatch.v1 import monitor_pb2 as pb


def to_message(explanation: Explanation) -> pb.Explanation:
    """The message of an explanation."""
    return pb.Explanation(**_fields(pb.Explanation.DESCRIPTOR.fields_by_name, explanation.model_dump()))


def from_message(message: pb.Explanation) -> Explanation:
    """The explanation of a message.

    Raises:
        ValidationError: The message is none that a server of this version sends.
    """
    return Explanation.model_validate(_values(message))


def _fields(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a message's constructor takes, by the names of its fields; what is None is left out."""
    return {name: _field(fields[name], value) for name, value in values.items() if value is not None}


def _field(field: Any, value: Any) -> Any:
    if field.enum_type:
        return f"{_prefix(field.enum_type)}{value.upper()}" if value else 0
    if not field.message_type or field.message_type.GetOptions().map_entry:
        return value
    own = field.message_type.fields_by_name
    return [_fields(own, one) for one in value] if field.is_repeated else _fields(own, value)


def _values(message: Message) -> dict[str, Any]:
    """The fields of a message by name, as plain values; those are left out that may be absent and are."""
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    if field.enum_type:
        return (
            field.enum_type.values_by_number[value].name.removeprefix(_prefix(field.enum_type)).lower() if value else ""
        )
    if not field.message_type:
        return tuple(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return tuple(map(_values, value)) if field.is_repeated else _values(value)


def _prefix(enum: Any) -> str:
    """What the names of an enumeration's values begin with."""
    return str(enum.values[0].name.removesuffix("UNSPECIFIED"))
