"""What happens around every call: it is let in, read, counted, and ended with a status if it fails."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from scopewatch.contract.status import PUSHBACK, code_of, pushback_ms, to_status
from scopewatch.doors.admission import Admission
from scopewatch.doors.auth import Roles, needed
from scopewatch.doors.grpc.call import Context, call_of
from scopewatch.doors.grpc.receiving import Receiver
from scopewatch.doors.grpc.service import METHODS, SERVICE_NAME, MonitorService
from scopewatch.errors import Overloaded, ScopewatchError
from scopewatch.metrics import Metrics

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
_ON_THE_WAY_S = 0.05
"""The caller's clock started before the request arrived, so its deadline passes, and it hangs up, before ours does."""
_NEVER = -1
"""The push-back that tells clients not to try again."""
_STREAMS = 1024
"""How many streams, such as health watches, are open at once over all connections."""


class Calls(grpc.aio.ServerInterceptor):
    """Stands before every method.

    Calls of MonitorService are let in before their request is read, which gRPC reads by itself for unary methods alone:
    so they are served as streams of one request, which nobody sees on the wire.

    Args:
        service: What scores pairs.
        admission: Lets its calls in.
        receiver: Reads their requests.
        roles: Who may ask for what.
        metrics: Counts calls, under the names of go-grpc-prometheus; streams are counted as started.
    """

    def __init__(
        self, service: MonitorService, admission: Admission, receiver: Receiver, roles: Roles, metrics: Metrics
    ) -> None:
        self._service = service
        self._admission = admission
        self._receiver = receiver
        self._roles = roles
        self._metrics = metrics
        self._served: dict[str, Handler] = {f"/{SERVICE_NAME}/{method}": self._own(method) for method in METHODS}
        """Handlers by path."""
        self._streams = 0

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        path = handler_call_details.method
        if served := self._served.get(path):
            return served
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        self._served[path] = self._requests(handler, path) if handler.request_streaming else self._other(handler, path)
        return self._served[path]

    def _own(self, method: str) -> Handler:
        path, request_type = f"/{SERVICE_NAME}/{method}", METHODS[method]
        respond = getattr(self._service, method)

        async def answer(context: Context) -> bytes:
            received = False
            try:
                call = call_of(context, path, self._roles)
                with self._admission.call() as holding, call.quota.call():
                    message = await self._receiver.receive(context, request_type, self._service.limits, holding)
                    received = True
                    reply: Message | bytes = await respond(message, call)
            except ScopewatchError as error:
                if method == "Score" and not received:
                    # Of a batch nobody knows how many pairs it holds.
                    self._metrics.pair_failed(error.reason)
                raise
            # Most of a reply is the same every time, and comes serialised.
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

        return self._unary(path, answer)

    def _other(self, handler: Handler, path: str) -> Handler:
        """The handler of a service that is not ours; its request is read within bounds too."""
        decode: Any = handler.request_deserializer
        inner: Any = handler.unary_unary or handler.unary_stream

        async def answer(context: Context) -> Any:
            self._check(context, path)
            return await inner(await self._receiver.receive_other(context, decode), context)

        async def stream(_: object, context: Context) -> Any:
            self._metrics.rpc_started(_kind(handler), *_names(path))
            if self._streams >= _STREAMS:
                await abort(context, Overloaded("too many streams are open", retry_after_s=1.0))
            self._streams += 1
            try:
                await answer(context)
            except ScopewatchError as error:
                await abort(context, error)
            finally:
                self._streams -= 1

        encode: Any = handler.response_serializer
        if not handler.response_streaming:
            return self._unary(path, answer, encode)
        respond: Any = stream
        return grpc.stream_stream_rpc_method_handler(respond, response_serializer=encode)

    def _requests(self, handler: Handler, path: str) -> Handler:
        """The handler of a method, such as reflection's, that is asked again and again on one stream."""
        inner: Any = handler.stream_stream

        async def answer(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
            self._metrics.rpc_started(_kind(handler), *_names(path))
            try:
                self._check(context, path)
            except ScopewatchError as error:
                await abort(context, error)
            async for reply in inner(requests, context):
                yield reply

        respond: Any = answer
        return grpc.stream_stream_rpc_method_handler(
            respond, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _check(self, context: Context, path: str) -> None:
        """Checks that a caller may ask another service; where no role is needed, it may be unknown."""
        if needed(path):
            call_of(context, path, self._roles)

    def _unary(self, path: str, respond: Callable[[Context], Awaitable[Any]], encode: Any = None) -> Handler:
        """A handler of one request and one reply: failures become the status that the table of errors has for them.

        Args:
            path: The path of the method.
            respond: Reads the request of a call and makes the reply.
            encode: Makes bytes of the reply; None where it is bytes.
        """
        service, method = _names(path)

        async def answer(_: object, context: Context) -> Any:
            self._metrics.rpc_started("unary", service, method)
            started_s = time.monotonic()
            code = grpc.StatusCode.OK
            try:
                return await respond(context)
            except asyncio.CancelledError:
                remaining_s = context.time_remaining()
                expired = remaining_s is not None and remaining_s <= _ON_THE_WAY_S
                code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception as error:
                if not isinstance(error, ScopewatchError):
                    # gRPC would send the exception's text, which may hold the caller's.
                    log.exception("unexpected failure in %s", method)
                code = code_of(error)
                await abort(context, error)
            finally:
                self._metrics.rpc_handled("unary", service, method, _go_name(code), time.monotonic() - started_s)

        handled: Any = answer
        return grpc.stream_unary_rpc_method_handler(handled, response_serializer=encode)


async def abort(context: Context, error: Exception) -> NoReturn:
    """Ends a call with the error's status and details."""
    status = rpc_status.to_status(to_status(error))
    trailing = status.trailing_metadata
    if (pause_ms := pushback_ms(error)) is not None:
        remaining_s = context.time_remaining()
        # A client that made a longer pause than it has time would learn nothing but that its time is over.
        in_vain = remaining_s is not None and pause_ms >= 1000 * remaining_s
        trailing = (*trailing, (PUSHBACK, str(_NEVER if in_vain else pause_ms)))
    await context.abort(status.code, status.details, trailing)
    raise AssertionError("abort always raises")


def _names(path: str) -> tuple[str, str]:
    """Service and method of a path."""
    _, service, method = path.split("/", 2)
    return service, method


def _kind(handler: Handler) -> str:
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


def _go_name(code: grpc.StatusCode) -> str:
    """`INVALID_ARGUMENT` → `InvalidArgument`, as go-grpc-prometheus writes codes; OK stays OK."""
    as_it_is = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return as_it_is.get(code) or code.name.title().replace("_", "")
