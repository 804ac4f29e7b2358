"""What happens around every call: it is let in, read, counted, and ended with a status if it fails."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import Message
from grpc_status import rpc_status

from scopewatch.doors.admission import Admission
from scopewatch.doors.grpc.receiving import Context, Receiver
from scopewatch.doors.grpc.service import METHODS, SERVICE_NAME, MonitorService
from scopewatch.doors.grpc.status import PUSHBACK, code_of, pushback_ms, to_status
from scopewatch.errors import Overloaded, ScopewatchError
from scopewatch.metrics import Metrics

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
_ON_THE_WAY_S = 0.05
"""The caller's clock started before the request arrived, so its deadline passes, and it hangs up, before ours does."""
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
        metrics: Counts calls, under the names of go-grpc-prometheus; streams are counted as started.
    """

    def __init__(self, service: MonitorService, admission: Admission, receiver: Receiver, metrics: Metrics) -> None:
        self._service = service
        self._admission = admission
        self._receiver = receiver
        self._metrics = metrics
        self._served: dict[str, Handler] = {
            f"/{SERVICE_NAME}/{method}": grpc.stream_unary_rpc_method_handler(self._own(method)) for method in METHODS
        }
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
        _, service, method = path.split("/", 2)
        if handler.request_streaming:
            self._metrics.rpc_started(_kind(handler), service, method)
            return handler
        self._served[path] = self._other(handler, service, method)
        return self._served[path]

    def _own(self, method: str) -> Any:
        request_type = METHODS[method]
        respond = getattr(self._service, method)

        async def answer(_: object, context: Context) -> bytes:
            async with self._counted(context, SERVICE_NAME, method):
                with self._admission.call() as holding:
                    message = await self._receiver.receive(context, request_type, self._service.limits, holding)
                    reply: Message | bytes = await respond(message, context)
            # Most of a reply is the same every time, and comes serialised.
            return reply if isinstance(reply, bytes) else reply.SerializeToString()

        return answer

    def _other(self, handler: Handler, service: str, method: str) -> Handler:
        """The handler of a service that is not ours; its request is read within bounds too."""
        decode: Any = handler.request_deserializer
        encode: Any = handler.response_serializer
        inner: Any = handler.unary_unary or handler.unary_stream

        async def answer(_: object, context: Context) -> Any:
            async with self._counted(context, service, method):
                return await inner(await self._receiver.receive_other(context, decode), context)

        async def stream(_: object, context: Context) -> Any:
            self._metrics.rpc_started(_kind(handler), service, method)
            if self._streams >= _STREAMS:
                await abort(context, Overloaded("too many streams are open", retry_after_s=1.0))
            self._streams += 1
            try:
                await inner(await self._receiver.receive_other(context, decode), context)
            except ScopewatchError as error:
                await abort(context, error)
            finally:
                self._streams -= 1

        respond: Any = stream if handler.response_streaming else answer
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(respond, response_serializer=encode)
        return grpc.stream_unary_rpc_method_handler(respond, response_serializer=encode)

    @asynccontextmanager
    async def _counted(self, context: Context, service: str, method: str) -> AsyncIterator[None]:
        """A call, from its header to its status: failures become the status that the table of errors has for them."""
        self._metrics.rpc_started("unary", service, method)
        started_s = time.monotonic()
        code = grpc.StatusCode.OK
        try:
            yield
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


async def abort(context: Context, error: Exception) -> NoReturn:
    """Ends a call with the error's status and details."""
    status = rpc_status.to_status(to_status(error))
    trailing = status.trailing_metadata
    if (pause_ms := pushback_ms(error)) is not None:
        trailing = (*trailing, (PUSHBACK, str(pause_ms)))
    await context.abort(status.code, status.details, trailing)
    raise AssertionError("abort always raises")


def _kind(handler: Handler) -> str:
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


def _go_name(code: grpc.StatusCode) -> str:
    """`INVALID_ARGUMENT` → `InvalidArgument`, as go-grpc-prometheus writes codes; OK stays OK."""
    as_it_is = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return as_it_is.get(code) or code.name.title().replace("_", "")
