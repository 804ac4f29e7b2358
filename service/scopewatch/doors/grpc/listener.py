"""The gRPC door: one server with MonitorService, health and, if wanted, reflection."""

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from scopewatch.doors.door import Spine
from scopewatch.doors.grpc.interceptors import MetricsInterceptor
from scopewatch.doors.grpc.service import SERVICE_NAME, MonitorService
from scopewatch.doors.limits import Limits
from scopewatch.errors import ConfigError
from scopewatch.metrics import Metrics
from scopewatch.v1 import monitor_pb2_grpc

TRANSPORT_MAX_BYTES = 64 << 20
"""Hard limit of the transport; the configured one is lower and answers with the field's name."""
_OPTIONS = [
    ("grpc.max_receive_message_length", TRANSPORT_MAX_BYTES),
    ("grpc.max_send_message_length", -1),
    # Two processes on one port is a mistake, not load balancing.
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcDoor:
    """A `Door` by gRPC. Build it inside the event loop it is to run on.

    Args:
        address: `host:port` to listen on; port 0 picks a free one.
        serve_reflection: Whether to serve server reflection.
        metrics: Counts calls and refused pairs.
    """

    def __init__(self, address: str, *, serve_reflection: bool, metrics: Metrics) -> None:
        self._address = address
        self._service = MonitorService(metrics)
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(interceptors=[MetricsInterceptor(metrics)], options=_OPTIONS)
        stubs: Any = monitor_pb2_grpc
        stubs.add_MonitorServiceServicer_to_server(self._service, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if serve_reflection:
            names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)

    async def listen(self) -> str:
        await self._health.set("", _SERVING)
        await self._health.set(SERVICE_NAME, _NOT_SERVING)
        try:
            port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            raise ConfigError(f"grpc_address {self._address}: cannot be bound; is it in use?") from None
        await self._server.start()
        return f"{self._address.rpartition(':')[0]}:{port}"

    async def open(self, spine: Spine, limits: Limits) -> None:
        self._service.open(spine, limits)
        await self.ready(True)

    async def ready(self, ready: bool) -> None:
        await self._health.set(SERVICE_NAME, _SERVING if ready else _NOT_SERVING)

    async def drain(self) -> None:
        # Liveness stays: Kubernetes would kill a draining pod that says it is dead.
        await self.ready(False)

    async def close(self, grace_s: float) -> None:
        self._service.close()
        await self._server.stop(grace_s)
