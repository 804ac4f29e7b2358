"""Requests as bytes: inflated and counted within bounds before anything is decoded.

A decoder makes some hundred bytes of a field that takes two on the wire, and gzip makes a thousand of one, so neither
may see what was not looked at. The wire format: https://protobuf.dev/programming-guides/encoding/.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from scopewatch.errors import FieldViolation, InvalidRequest

_GZIP = b"\x1f\x8b"
"""How gzip begins and no message of protobuf does: it would be field 3 of a wire type that does not exist."""
_VARINT, _FIXED64, _BYTES, _GROUP, _END_GROUP, _FIXED32 = range(6)
_FIXED = {_FIXED64: 8, _FIXED32: 4, _GROUP: 0, _END_GROUP: 0}
Parts: TypeAlias = "Mapping[int, Parts]"
"""The fields of a message that hold messages, by number, with their own fields of that kind."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a message holds, as far as its bytes tell."""

    fields: int
    """The number of fields on all levels."""
    largest: str
    """The name of the field of the message itself that takes most of its bytes; empty for an empty message."""


def inflated(data: bytes, max_bytes: int) -> bytes:
    """The message itself, of a body that may be compressed by gzip.

    Args:
        data: The body.
        max_bytes: The most that it may be inflated to.

    Raises:
        InvalidRequest: The body is damaged, or would be larger.
    """
    if not data.startswith(_GZIP):
        return data
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        message = inflater.decompress(data, max_bytes + 1)
    except zlib.error:
        raise _refused("request", "the compressed message is damaged") from None
    if len(message) > max_bytes:
        raise _refused("request", f"the message takes more than {max_bytes} bytes when it is inflated")
    if not inflater.eof or inflater.unused_data:
        raise _refused("request", "the compressed message is cut short, or something follows it")
    return message


def counted(data: bytes, descriptor: Any, max_fields: int) -> Counted:
    """Counts the fields of a message without decoding it, and gives up where they are too many.

    What is no message at all is counted as far as it can be followed; the decoder says what is wrong with it.

    Args:
        data: The serialised message.
        descriptor: The protobuf descriptor of the message's type.
        max_fields: The most fields that it may hold, on all levels together.

    Raises:
        InvalidRequest: It holds more; names the field that most of them are in.
    """
    sizes: dict[int, int] = {}
    fields = _walk(data, slice(0, len(data)), _parts(descriptor), max_fields, sizes)
    largest = max(sizes, key=lambda number: sizes[number], default=0)
    name = descriptor.fields_by_number[largest].name if largest in descriptor.fields_by_number else "request"
    if fields > max_fields:
        raise _refused(name, f"the message holds more than {max_fields} fields, most of them here; send fewer at once")
    return Counted(fields, name)


def _walk(data: bytes, within: slice, parts: Parts, most: int, sizes: dict[int, int] | None = None) -> int:
    """The number of fields of a message; one more than `most` if there are more.

    Args:
        data: The bytes that hold the message.
        within: The bytes that are the message.
        parts: The fields to descend into.
        most: How many fields are counted.
        sizes: Is filled with the bytes that each field takes, by its number.
    """
    place, end, fields = within.start, within.stop, 0
    while place < end and fields <= most:
        began = place
        # Nearly all tags and many sizes are one byte long.
        if (tag := data[place]) < 0x80:
            place += 1
        else:
            tag, place = _varint(data, place, end)
        fields += 1
        kind = tag & 7
        if kind == _BYTES:
            size, place = _varint(data, place, end)
            stop = min(place + size, end)
            if (part := parts.get(tag >> 3)) is not None:
                fields += _walk(data, slice(place, stop), part, most - fields)
            place = stop
        elif kind == _VARINT:
            _, place = _varint(data, place, end)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            return fields
        if sizes is not None:
            sizes[tag >> 3] = sizes.get(tag >> 3, 0) + place - began
    return fields


def _varint(data: bytes, place: int, end: int) -> tuple[int, int]:
    """A number of the wire format, and where it ends; what is cut short ends with the bytes."""
    if place < end and data[place] < 0x80:
        return data[place], place + 1
    value = shift = 0
    while place < end and shift < 70:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, place


@lru_cache(maxsize=8)
def _parts(descriptor: Any) -> Parts:
    return {field.number: _parts(field.message_type) for field in descriptor.fields if field.message_type}


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(field, why))
