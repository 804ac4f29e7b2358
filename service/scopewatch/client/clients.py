"""The two clients: calls on a channel, and the errors behind those that fail."""

import json
import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, Unpack
from urllib.parse import urlsplit

import grpc
from google.protobuf import json_format
from google.rpc import status_pb2
from grpc_status import rpc_status

from scopewatch.addresses import is_loopback
from scopewatch.client.credentials import bearer, channel_credentials
from scopewatch.client.requests import ScoreFields, request
from scopewatch.client.trace_context import trace_context
from scopewatch.contract.status import from_status
from scopewatch.errors import ConfigError, ScopewatchError
from scopewatch.v1 import monitor_pb2 as pb
from scopewatch.v1 import monitor_pb2_grpc

if TYPE_CHECKING:
    # The document's classes take half of the time that importing the client would; `explain` imports them.
    from scopewatch.explanation import Explanation

_SERVICE = pb.DESCRIPTOR.services_by_name["MonitorService"].full_name
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": _SERVICE}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                # A server that stops cancels what reaches it at the last moment; scoring twice does no harm.
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    "loadBalancingConfig": [{"round_robin": {}}],
}
_ONLY_READY = {"healthCheckConfig": {"serviceName": _SERVICE}}
"""What keeps calls from servers that say they are not ready. Behind the one address of a balancer a call has no other
server to go to, and one that drains still answers."""
_OPTIONS = [
    ("grpc.enable_retries", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
_SCHEME = re.compile(r"(?:dns|ipv4|ipv6):(?://[^/]*/)?")


def to_dict(reply: Any) -> dict[str, Any]:
    """A reply message as plain values, under the field names of the proto file, for JSON."""
    return json_format.MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _on_this_machine(target: str) -> bool:
    """Whether a gRPC target names this machine, by `localhost` or by addresses that lead to it from everywhere."""
    return all(map(_leads_here, _SCHEME.sub("", target, count=1).split(",")))


def _leads_here(address: str) -> bool:
    if is_loopback(address):
        return True
    try:
        host = urlsplit(f"//{address}").hostname or ""
        return host.endswith(".localhost") or ip_address(host).is_unspecified
    except ValueError:
        return False


class _Connection:
    """What both clients are made of: a channel to the server with a stub on it, and the deadline of calls."""

    _transport: Any
    """The module that makes channels, `grpc` or `grpc.aio`."""

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = 10.0,
        credentials: grpc.ChannelCredentials | None = None,
        tls_ca: Path | str | None = None,
        tls_cert: Path | str | None = None,
        tls_key: Path | str | None = None,
        token: str | Callable[[], str] | None = None,
        insecure: bool = False,
    ) -> None:
        credentials = credentials or channel_credentials(tls_ca, tls_cert, tls_key)
        here = _on_this_machine(address)
        if token is not None and not (credentials or here or insecure):
            raise ConfigError(
                f"token: would go to {address} in plaintext, for everybody on the way to read; give tls_ca, "
                "or insecure where the network between is trusted"
            )
        config = _SERVICE_CONFIG | (_ONLY_READY if _SCHEME.match(address) else {})
        options = [*_OPTIONS, ("grpc.service_config", json.dumps(config))]
        if here:
            # gRPC asks the proxy of `http_proxy` for every server; this machine's own is behind none.
            options.append(("grpc.enable_http_proxy", 0))
        if credentials:
            self._channel = self._transport.secure_channel(address, credentials, options=options)
        else:
            self._channel = self._transport.insecure_channel(address, options=options)
        stubs: Any = monitor_pb2_grpc
        self._stub = stubs.MonitorServiceStub(self._channel)
        self._timeout_s = timeout_s
        self._token = token

    @property
    def _sent(self) -> dict[str, Any]:
        """What goes with every call beside its message."""
        shown = () if self._token is None else bearer(self._token)
        return {"timeout": self._timeout_s, "metadata": (*shown, *trace_context())}


class Client(_Connection):
    """A blocking client. It is thread-safe; keep one per process. Failed calls raise `scopewatch.errors`.

    Args:
        address: `host:port` of a server or of a balancer before several; `unix:/path`; or a gRPC target that names
            several servers, such as `dns:///scopewatch-headless:50051` or `ipv4:10.0.0.1:50051,10.0.0.2:50051`, among
            which calls go in turn to those that are ready.
        timeout_s: The deadline of a call, retries included.
        credentials: The credentials of the channel, in place of those that the files below make.
        tls_ca: PEM file of those who sign the server's certificate. Without it, and without tls_cert, calls go in
            plaintext.
        tls_cert: PEM file of the client's certificate chain, for servers that ask for one.
        tls_key: PEM file of its private key.
        token: The bearer token that says who calls, or what gives the newest one.
        insecure: Whether the token may go in plaintext to another machine.

    Raises:
        ConfigError: Files are not in order, or the token would go in plaintext.
    """

    _transport = grpc

    def score(self, **fields: Unpack[ScoreFields]) -> pb.ScoreResponse:
        """Scores one pair."""
        reply: pb.ScoreResponse = self._call(self._stub.Score, request(**fields))
        return reply

    def score_batch(self, requests: Sequence[pb.ScoreRequest]) -> list[pb.ScoreResponse | ScopewatchError]:
        """Scores pairs made by `request`; an item that failed is an error in its place."""
        return _outcomes(self._call(self._stub.BatchScore, pb.BatchScoreRequest(requests=requests)))

    def explain(
        self, *, kept: str = "", top: int = 0, ablate: bool = False, delete: bool = False, **fields: Unpack[ScoreFields]
    ) -> "Explanation":
        """Tells why a pair gets its verdict; needs the role `explain`.

        It is made when no pair waits to be scored, and tried again as other calls are: give the client time for it.

        Args:
            kept: The id of a scored pair whose texts the server keeps, in place of the pair.
            top: How many features of each whole dictionary are told of each segment and token; 0 for 8, at most 64.
            ablate: Whether to measure what the flagged indicators' features do to the reader.
            delete: Whether to look for the smallest deletion of words after which the verdict is another.
            fields: The pair, as `score` takes it.
        """
        from scopewatch.client.explanations import explain_request, explanation_of

        asked = explain_request(kept=kept, top=top, ablate=ablate, delete=delete, fields=fields)
        return explanation_of(self._call(self._stub.Explain, asked))

    def info(self) -> pb.GetInfoResponse:
        """What the server reads with, watches and accepts."""
        reply: pb.GetInfoResponse = self._call(self._stub.GetInfo, pb.GetInfoRequest())
        return reply

    def reload_watchlists(self) -> pb.ReloadWatchlistsResponse:
        """Has the server read its watchlist files again; needs the role `admin`. The error names every mistake."""
        reply: pb.ReloadWatchlistsResponse = self._call(self._stub.ReloadWatchlists, pb.ReloadWatchlistsRequest())
        return reply

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, method: Any, message: Any) -> Any:
        try:
            return method(message, **self._sent)
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

    async def explain(
        self, *, kept: str = "", top: int = 0, ablate: bool = False, delete: bool = False, **fields: Unpack[ScoreFields]
    ) -> "Explanation":
        """Tells why a pair gets its verdict; needs the role `explain`. The arguments are those of `Client.explain`."""
        from scopewatch.client.explanations import explain_request, explanation_of

        asked = explain_request(kept=kept, top=top, ablate=ablate, delete=delete, fields=fields)
        return explanation_of(await self._call(self._stub.Explain, asked))

    async def info(self) -> pb.GetInfoResponse:
        """What the server reads with, watches and accepts."""
        reply: pb.GetInfoResponse = await self._call(self._stub.GetInfo, pb.GetInfoRequest())
        return reply

    async def reload_watchlists(self) -> pb.ReloadWatchlistsResponse:
        """Has the server read its watchlist files again; needs the role `admin`. The error names every mistake."""
        reply: pb.ReloadWatchlistsResponse = await self._call(self._stub.ReloadWatchlists, pb.ReloadWatchlistsRequest())
        return reply

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _call(self, method: Any, message: Any) -> Any:
        try:
            return await method(message, **self._sent)
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
    if not status:
        code, details = error.code(), error.details() or ""
        said = f"no server that is ready was reached: {details}" if code is grpc.StatusCode.UNAVAILABLE else details
        status = status_pb2.Status(code=code.value[0], message=said)
    return from_status(status)
