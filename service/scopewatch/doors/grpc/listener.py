"""The gRPC door: one server with MonitorService, health and, if wanted, reflection."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from scopewatch.config import Config
from scopewatch.doors.admission import Admission
from scopewatch.doors.auth import Roles
from scopewatch.doors.door import Spine
from scopewatch.doors.grpc.calls import Calls
from scopewatch.doors.grpc.health import NOT_SERVING, SERVING, Health
from scopewatch.doors.grpc.ports import HealthPort, add_port
from scopewatch.doors.grpc.receiving import Receiver
from scopewatch.doors.grpc.reflection import add_reflection
from scopewatch.doors.grpc.service import SERVICE_NAME, MonitorService
from scopewatch.doors.limits import Limits
from scopewatch.doors.tls import Certificates
from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2_grpc

_TRANSPORT_BYTES = 16 << 20
"""The least that the transport takes, and twice what a request may take otherwise; see decision 0004."""
_QUIET_S = 0.25
"""How long no call may have come before the last connections are closed: what is on the way then would be cancelled."""
_MAX_UNSEEN_CALLS = 1 << 14
_AGED_GRACE_MS = 300_000
"""How long the calls of a connection have that was asked to come again."""
_FOR_EVER = (1 << 31) - 1


class GrpcDoor:
    """A `Door` by gRPC. Build it inside the event loop it is to run on.

    Args:
        config: Settings: where to listen, and what to let in.
        metrics: Counts calls and refused pairs.
        roles: Who may ask for what.
        certificates: What is shown to callers and asked of them; None for plaintext.
    """

    def __init__(
        self, config: Config, metrics: Metrics, roles: Roles, certificates: Certificates | None = None
    ) -> None:
        self._address = config.grpc_address
        self._certificates = certificates
        self._service = MonitorService(metrics)
        self._admission = Admission(max_calls=config.max_calls, max_bytes=config.max_calls_bytes)
        self._receiver = Receiver(config.call_read_s)
        self._health = Health()
        self._health_port = HealthPort(config.health_address, self._health) if config.health_address else None
        calls = Calls(self._service, self._admission, self._receiver, roles, metrics)
        self._server = grpc.aio.server(interceptors=[calls], options=_options(config))
        # `Calls` answers its methods.
        stubs: Any = monitor_pb2_grpc
        stubs.add_MonitorServiceServicer_to_server(monitor_pb2_grpc.MonitorServiceServicer(), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if config.reflection:
            add_reflection(self._server, (SERVICE_NAME, health.SERVICE_NAME))

    async def listen(self) -> dict[str, str]:
        self._health.set("", SERVING)
        self._health.set(SERVICE_NAME, NOT_SERVING)
        addresses = {"grpc_address": add_port(self._server, self._address, self._certificates, setting="grpc_address")}
        await self._server.start()
        if self._health_port:
            addresses["health_address"] = await self._health_port.listen()
        return addresses

    async def open(self, spine: Spine, limits: Limits) -> None:
        self._service.open(spine, limits)
        self._admission.open()
        await self.ready(True)

    async def ready(self, ready: bool) -> None:
        self._health.set(SERVICE_NAME, SERVING if ready else NOT_SERVING)

    async def drain(self) -> None:
        # Liveness stays: Kubernetes would kill a draining pod that says it is dead.
        await self.ready(False)

    async def close(self, grace_s: float) -> None:
        self._admission.close()
        # Stopping cancels what the transport took and nobody has seen yet, so it waits until nothing comes any more.
        await self._admission.quiet(min(_QUIET_S, grace_s), grace_s)
        await self._server.stop(0)
        self._receiver.close()
        # Last, so that whoever asks whether this process is alive is answered while it drains.
        if self._health_port:
            await self._health_port.close()


def _options(config: Config) -> list[tuple[str, int]]:
    """Channel arguments of the server: https://grpc.github.io/grpc/core/group__grpc__arg__keys.html."""
    age_ms = round(1000 * config.max_connection_age_s) or _FOR_EVER
    return [
        ("grpc.max_receive_message_length", max(_TRANSPORT_BYTES, 2 * config.max_message_bytes)),
        ("grpc.max_send_message_length", -1),
        # Bodies come as they are and are inflated here, within bounds; of compressions gzip alone (and none) is taken.
        ("grpc.per_message_decompression", 0),
        ("grpc.compression_enabled_algorithms_bitset", 0b101),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.max_concurrent_streams", config.max_connection_calls),
        # It would count streams that are answered already, and reset a client's next ones.
        ("grpc.http.overload_protection", 0),
        # Calls that nobody has seen yet; beyond so many they are cancelled, without a reason that a client could read.
        ("grpc.server.max_pending_requests", _MAX_UNSEEN_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_UNSEEN_CALLS),
        # Probing makes windows grow to megabytes, for each stream whose request nobody reads yet.
        ("grpc.http2.bdp_probe", 0),
        # Who connects and says nothing holds a descriptor no longer; by default two minutes.
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Two processes on one port is a mistake, not load balancing.
        ("grpc.so_reuseport", 0),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # A peer that is gone without a word is noticed; one that stays comes again now and then, and load spreads.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_age_ms", age_ms),
        ("grpc.max_connection_age_grace_ms", _AGED_GRACE_MS),
    ]
