"""Clients for application backends, blocking and asyncio, with deadlines and retries.

    with Client("localhost:50051") as client:
        reply = client.score(prompt="What is it?", response="It might be gout.", include_evidence=True)
        for indicator in reply.indicators:
            print(indicator.name, indicator.flagged)

Replies are the protobuf messages of `scopewatch.v1`. Failures are `scopewatch.errors`: InvalidRequest names the
field, Overloaded says when to come back, DeadlineExpired, NotReady, EngineError.
"""

import json
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import grpc
from google.protobuf import json_format
from google.rpc import status_pb2
from grpc_status import rpc_status

from scopewatch.doors.grpc.status import from_status
from scopewatch.errors import FieldViolation, InvalidRequest, ScopewatchError
from scopewatch.types import Turn
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

__all__ = ["AsyncClient", "Client", "ScoreFields", "pb", "request", "to_dict"]

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


class ScoreFields(TypedDict, total=False):
    """Fields of one request; only `response` has to be there."""

    prompt: str
    response: str
    history: Sequence[Turn]
    watchlist: str
    labels: Mapping[str, str]
    include_evidence: bool
    request_id: str


def request(**fields: Unpack[ScoreFields]) -> pb.ScoreRequest:
    """Builds a request message.

    Raises:
        InvalidRequest: A text holds lone surrogates, which UTF-8 cannot carry.
    """
    turns = fields.get("history", ())
    texts: dict[str, str] = {
        "prompt": fields.get("prompt", ""),
        "response": fields.get("response", ""),
        "watchlist": fields.get("watchlist", ""),
        "request_id": fields.get("request_id", ""),
    }
    texts |= {
        f"history[{i}].{name}": getattr(turn, name) for i, turn in enumerate(turns) for name in ("role", "content")
    }
    texts |= {f"labels[{i}]": key + value for i, (key, value) in enumerate(fields.get("labels", {}).items())}
    for name, text in texts.items():
        if not _encodable(text):
            raise InvalidRequest(
                FieldViolation(name, "holds a lone surrogate, which is not valid Unicode text; remove it")
            )
    return pb.ScoreRequest(
        prompt=texts["prompt"],
        response=texts["response"],
        watchlist=texts["watchlist"],
        request_id=texts["request_id"],
        history=[pb.Turn(role=turn.role, content=turn.content) for turn in turns],
        labels=fields.get("labels", {}),
        include_evidence=fields.get("include_evidence", False),
    )


def to_dict(reply: Any) -> dict[str, Any]:
    """A reply as plain values with the contract's field names, for JSON."""
    return json_format.MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


class Client:
    """A blocking client. Thread-safe; keep one per process.

    Args:
        address: `host:port`, or any gRPC target such as `dns:///scopewatch:50051`.
        timeout_s: Deadline of a call, retries included.
        credentials: For a TLS channel; None for plaintext.
    """

    def __init__(
        self, address: str, *, timeout_s: float = 10.0, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        if credentials:
            self._channel = grpc.secure_channel(address, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        stubs: Any = monitor_pb2_grpc
        self._stub = stubs.MonitorServiceStub(self._channel)
        self._timeout_s = timeout_s

    def score(self, **fields: Unpack[ScoreFields]) -> pb.ScoreResponse:
        """Scores one pair; raises `scopewatch.errors` on failure."""
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _call(self, method: Any, message: Any) -> Any:
        try:
            return method(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise _error(error) from None


class AsyncClient:
    """The same for asyncio. Build it inside a running event loop.

    Args:
        address: As for `Client`.
        timeout_s: Deadline of a call, retries included.
        credentials: For a TLS channel; None for plaintext.
    """

    def __init__(
        self, address: str, *, timeout_s: float = 10.0, credentials: grpc.ChannelCredentials | None = None
    ) -> None:
        if credentials:
            self._channel = grpc.aio.secure_channel(address, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        stubs: Any = monitor_pb2_grpc
        self._stub = stubs.MonitorServiceStub(self._channel)
        self._timeout_s = timeout_s

    async def score(self, **fields: Unpack[ScoreFields]) -> pb.ScoreResponse:
        """Scores one pair; raises `scopewatch.errors` on failure."""
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(self, method: Any, message: Any) -> Any:
        try:
            return await method(message, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            raise _error(error) from None


def _outcomes(reply: pb.BatchScoreResponse) -> list[pb.ScoreResponse | ScopewatchError]:
    return [
        result.response if result.WhichOneof("outcome") == "response" else from_status(result.status)
        for result in reply.results
    ]


def _error(error: Any) -> ScopewatchError:
    """The error behind a failed call; without details where the transport failed, not the service."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        status = None
    return from_status(status or status_pb2.Status(code=error.code().value[0], message=error.details() or ""))


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
