"""Requests as they come in: read a few at a time, counted, decoded; large ones beside the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from scopewatch.doors.admission import Holding, Readers
from scopewatch.doors.grpc.call import Context
from scopewatch.doors.grpc.malformed import decoded
from scopewatch.doors.grpc.wire import counted, inflated
from scopewatch.doors.limits import Limits
from scopewatch.errors import FieldViolation, InvalidRequest

T = TypeVar("T")
_READERS = 8
"""The number of requests that arrive at once."""
_CROWDED_S = 1.0
"""The longest that one may take while others wait."""
_OTHERS_READ_S, _OTHERS_CROWDED_S, _OTHERS_BYTES = 1.0, 0.1, 64 << 10
"""In how many seconds a request of another service has to arrive, alone and while others wait, and its largest size."""
_AT_ONCE_BYTES = 64 << 10
"""The largest body that is decoded on the event loop: it takes less than a millisecond."""
_FIELD_BYTES = 128
"""What a field takes at least once it is decoded, whatever it took on the wire."""


class Receiver:
    """Reads the requests of calls.

    Args:
        read_s: The longest that a request of MonitorService may take to arrive, in seconds.
    """

    def __init__(self, read_s: float) -> None:
        self._readers = Readers(_READERS, read_s, _CROWDED_S)
        self._others = Readers(_READERS, _OTHERS_READ_S, _OTHERS_CROWDED_S)
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")

    async def receive(self, context: Context, kind: type[Message], limits: Limits, holding: Holding) -> Message:
        """The request of a call of MonitorService.

        Args:
            context: The call, of whose request nothing is read yet.
            kind: The type of the request.
            limits: What a request may hold.
            holding: What the call holds, until it is answered.

        Raises:
            InvalidRequest: The body is no such message, or too large.
            Overloaded: There is no room for it.
            DeadlineExpired: It did not arrive in time.
        """
        body = await _body(context, self._readers)
        holding.hold(len(body))
        beside = len(body) > _AT_ONCE_BYTES or body[:1] == b"\x1f"
        data, fields = await self._run(beside, partial(_looked_at, body, kind, limits))
        # Not from the other thread: it goes on when the call is cancelled, and nobody would give back what it holds.
        holding.hold(len(data) - len(body) + _FIELD_BYTES * fields)
        return await self._run(beside, partial(decoded, kind, data))

    async def receive_other(self, context: Context, decode: Callable[[bytes], Any]) -> Any:
        """The request of a call of another service, such as a health check; those are small.

        Args:
            context: The call, of whose request nothing is read yet.
            decode: Makes the message of its bytes.

        Raises:
            InvalidRequest: The body is too large, or no such message.
            ScopewatchError: As of `receive`.
        """
        body = await _body(context, self._others)
        if len(body) > _OTHERS_BYTES:
            raise InvalidRequest(FieldViolation("request", f"takes more than {_OTHERS_BYTES} bytes"))
        try:
            return decode(inflated(body, _OTHERS_BYTES))
        except DecodeError:
            raise InvalidRequest(FieldViolation("request", "the bytes are not the message of this method")) from None

    async def _run(self, beside: bool, work: Callable[[], T]) -> T:
        """What some work returns, which is done on the event loop or beside it."""
        return await asyncio.get_running_loop().run_in_executor(self._decoder, work) if beside else work()

    def close(self) -> None:
        """Ends the thread that decodes."""
        self._decoder.shutdown(wait=False)


async def _body(context: Context, readers: Readers) -> bytes:
    async with readers.reading():
        body: Any = await context.read()
    if body is grpc.aio.EOF:
        raise InvalidRequest(FieldViolation("request", "the call holds no message"))
    return bytes(body)


def _looked_at(body: bytes, kind: type[Message], limits: Limits) -> tuple[bytes, int]:
    """The message in a body, as bytes, and the number of its fields."""
    data = inflated(body, limits.max_message_bytes)
    held = counted(data, kind.DESCRIPTOR, limits.max_fields)
    if len(data) > limits.max_message_bytes:
        most = limits.max_message_bytes
        why = f"the message takes {len(data)} bytes, most of them here; at most {most} are allowed"
        raise InvalidRequest(FieldViolation(held.largest, why))
    return data, held.fields
