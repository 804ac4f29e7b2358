"""What happens around every RPC: `grpc_server_*` metrics, tolerant decoding of our own requests, a status for bugs."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from scopewatch.doors.grpc.malformed import tolerant
from scopewatch.doors.grpc.service import SERVICE_NAME, abort
from scopewatch.doors.grpc.status import code_of
from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2 as pb

log = logging.getLogger(__name__)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
_ON_THE_WAY_S = 0.05
"""The caller's clock started before the request arrived, so its deadline passes, and it hangs up, before ours does."""
_REQUESTS = {
    "Score": pb.ScoreRequest,
    "BatchScore": pb.BatchScoreRequest,
    "GetInfo": pb.GetInfoRequest,
    "ReloadWatchlists": pb.ReloadWatchlistsRequest,
}


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """go-grpc-prometheus names for unary RPCs; streams (reflection, health Watch) are counted as started."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._timed: dict[str, Handler] = {}
        """Handlers of unary methods, by path."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        path = handler_call_details.method
        if timed := self._timed.get(path):
            return timed
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        _, service, method = path.split("/", 2)
        if handler.unary_unary is None:
            self._metrics.rpc_started(_kind(handler), service, method)
            return handler
        self._timed[path] = self._time(handler, service, method)
        return self._timed[path]

    def _time(self, handler: Handler, service: str, method: str) -> Handler:
        inner: Any = handler.unary_unary

        async def timed(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            self._metrics.rpc_started("unary", service, method)
            started_s = time.monotonic()
            code = grpc.StatusCode.OK
            try:
                return await inner(request, context)
            except asyncio.CancelledError:
                remaining_s = context.time_remaining()
                expired = remaining_s is not None and remaining_s <= _ON_THE_WAY_S
                code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
                raise
            except grpc.aio.AbortError:
                code = context.code() or grpc.StatusCode.UNKNOWN
                raise
            except Exception as error:
                # gRPC would send the exception's text, which may hold the caller's.
                log.exception("unexpected failure in %s", method)
                code = code_of(error)
                await abort(context, error)
            finally:
                self._metrics.rpc_handled("unary", service, method, _go_name(code), time.monotonic() - started_s)

        decode: Any = handler.request_deserializer
        encode: Any = handler.response_serializer
        if service == SERVICE_NAME:
            decode, encode = tolerant(_REQUESTS[method]), _encode
        respond: Any = timed
        return grpc.unary_unary_rpc_method_handler(respond, request_deserializer=decode, response_serializer=encode)


def _encode(reply: Message | bytes) -> bytes:
    """Replies may come serialised: most of one is the same every time."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _kind(handler: Handler) -> str:
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


def _go_name(code: grpc.StatusCode) -> str:
    """`INVALID_ARGUMENT` → `InvalidArgument`, as go-grpc-prometheus writes codes; OK stays OK."""
    as_it_is = {grpc.StatusCode.OK: "OK", grpc.StatusCode.CANCELLED: "Canceled"}
    return as_it_is.get(code) or code.name.title().replace("_", "")
