"""Requests whose bytes are not the message they claim to be."""

from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from scopewatch.errors import FieldViolation, InvalidRequest


def decoded(kind: type[Message], data: bytes) -> Message:
    """Decodes a request.

    Args:
        kind: The type of the message.
        data: The serialised message.

    Raises:
        InvalidRequest: The bytes are no such message; gRPC itself would answer with INTERNAL and no reason.
    """
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
    field = _field_with_bad_text(name, data)
    why = "is not valid UTF-8 (lone surrogates cannot be sent); encode it again"
    raise InvalidRequest(FieldViolation(field or "request", why if field else f"the bytes are not a {name}"))


def _field_with_bad_text(full_name: str, data: bytes) -> str:
    try:
        message = _bytes_twin(full_name).FromString(data)
    except DecodeError:
        return ""
    return _bad_field(message)


def _bad_field(message: Message) -> str:
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else [value]
        for index, item in enumerate(values):
            name = f"{descriptor.name}[{index}]" if descriptor.is_repeated else descriptor.name
            if isinstance(item, Message):
                if inner := _bad_field(item):
                    return f"{name}.{inner}"
            elif isinstance(item, bytes) and not _is_utf8(item):
                return name
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=8)
def _bytes_twin(full_name: str) -> type[Message]:
    """The same message with `bytes` for `string` and plain entries for maps, to look at what was sent."""
    source = descriptor_pool.Default().FindMessageTypeByName(full_name)
    file = descriptor_pb2.FileDescriptorProto()
    source.file.CopyToProto(file)
    for message in _all_messages(file.message_type):
        message.options.map_entry = False
        for field in message.field:
            if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
                field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    pool = descriptor_pool.DescriptorPool()
    for dependency in _dependencies(source.file):
        pool.Add(dependency)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))


def _all_messages(messages: Any) -> list[descriptor_pb2.DescriptorProto]:
    return [found for message in messages for found in (message, *_all_messages(message.nested_type))]


def _dependencies(file: Any) -> list[descriptor_pb2.FileDescriptorProto]:
    found: list[descriptor_pb2.FileDescriptorProto] = []
    for dependency in file.dependencies:
        for proto in (*_dependencies(dependency), descriptor_pb2.FileDescriptorProto()):
            if not proto.name:
                dependency.CopyToProto(proto)
            if proto.name not in {other.name for other in found}:
                found.append(proto)
    return found
