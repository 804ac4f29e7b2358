"""The two clients: calls on a channel, and the errors behind those that fail."""

import json
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any, Self, Unpack
from urllib.parse import urlsplit

import grpc
from google.protobuf import json_format
from google.rpc import status_pb2
from grpc_status import rpc_status

from scopewatch.client.requests import ScoreFields, request
from scopewatch.doors.grpc.status import from_status
from scopewatch.errors import ScopewatchError
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

_RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": pb.DESCRIPTOR.services_by_name["MonitorService"].full_name}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}
_OPTIONS = [
    ("grpc.enable_retries", 1),
    ("grpc.service_config", json.dumps(_RETRIES)),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):(?://[^/]*/)?")


def to_dict(reply: Any) -> dict[str, Any]:
    """A reply message as plain values, under the field names of the proto file, for JSON."""
    return json_format.MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _on_this_machine(target: str) -> bool:
    """Whether a gRPC target names this machine, by `localhost` or by addresses that lead to it from everywhere."""
    return all(map(_is_loopback, _SCHEME.sub("", target, count=1).split(",")))


def _is_loopback(address: str) -> bool:
    try:
        host = urlsplit(f"//{address}").hostname or ""
        named = host == "localhost" or host.endswith(".localhost")
        return named or ip_address(host).is_loopback or ip_address(host).is_unspecified
    except ValueError:
        return False


class _Connection:
    """What both clients are made of: a channel to the server with a stub on it, and the deadline of calls."""

    _transport: Any
    """The module that makes channels, `grpc` or `grpc.aio`."""

    def __init__(
        self, address: str, *, timeout_s: float = 10.0, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        # gRPC asks the proxy of `http_proxy` for every server; this machine's own is behind none.
        options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)] if _on_this_machine(address) else _OPTIONS
        if credentials:
            self._channel = self._transport.secure_channel(address, credentials, options=options)
        else:
            self._channel = self._transport.insecure_channel(address, options=options)
        stubs: Any = monitor_pb2_grpc
        self._stub = stubs.MonitorServiceStub(self._channel)
        self._timeout_s = timeout_s


class Client(_Connection):
    """A blocking client. It is thread-safe; keep one per process. Failed calls raise `scopewatch.errors`.

    Args:
        address: `host:port`, or any gRPC target such as `dns:///scopewatch:50051`.
        timeout_s: The deadline of a call, retries included.
        credentials: The credentials of a TLS channel; None for plaintext.
    """

    _transport = grpc

    def score(self, **fields: Unpack[ScoreFields]) -> pb.ScoreResponse:
        """Scores one pair."""
        reply: pb.ScoreResponse = self._call(self._stub.Score, request(**fields))
        return reply

    def score_batch(self, requests: Sequence[pb.ScoreRequest]) -> list[pb.ScoreResponse | ScopewatchError]:
        """Scores pairs made by `request`; an item that failed is an error in its place."""
        return _outcomes(self._call(self._stub.BatchScore, pb.BatchScoreRequest(requests=requests)))

    def info(self) -> pb.GetInfoResponse:
        """What the server reads with, watches and accepts."""
        reply: pb.GetInfoResponse = self._call(self._stub.GetInfo, pb.GetInfoRequest())
        return reply

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Any, message: Any) -> Any:
        try:
            return method(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _error(error) from None


class AsyncClient(_Connection):
    """A client for asyncio with the arguments and methods of `Client`. Build it inside a running event loop."""

    _transport = grpc.aio

    async def score(self, **fields: Unpack[ScoreFields]) -> pb.ScoreResponse:
        """Scores one pair."""
        reply: pb.ScoreResponse = await self._call(self._stub.Score, request(**fields))
        return reply

    async def score_batch(self, requests: Sequence[pb.ScoreRequest]) -> list[pb.ScoreResponse | ScopewatchError]:
        """Scores pairs made by `request`; an item that failed is an error in its place."""
        return _outcomes(await self._call(self._stub.BatchScore, pb.BatchScoreRequest(requests=requests)))

    async def info(self) -> pb.GetInfoResponse:
        """What the server reads with, watches and accepts."""
        reply: pb.GetInfoResponse = await self._call(self._stub.GetInfo, pb.GetInfoRequest())
        return reply

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Any, message: Any) -> Any:
        try:
            return await method(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _error(error) from None


def _outcomes(reply: pb.BatchScoreResponse) -> list[pb.ScoreResponse | ScopewatchError]:
    """The reply, or the error, of each item of a batch."""
    return [
        result.response if result.WhichOneof("outcome") == "response" else from_status(result.status)
        for result in reply.results
    ]


def _error(error: Any) -> ScopewatchError:
    """The error behind a failed call; it has no details where not the service failed but the transport."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    return from_status(status or status_pb2.Status(code=error.code().value[0], message=error.details() or ""))
