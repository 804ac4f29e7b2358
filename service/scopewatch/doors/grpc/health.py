"""The health service: what is alive, what is ready, and everybody told who watches."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from scopewatch.doors.grpc.call import Context

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated
    """Tells states by the names of services. Build it inside the event loop it is to run on.

    The servicer that comes with gRPC writes to a watcher under a lock that a change of state needs too: one watcher who
    takes nothing would keep the service from ever saying that it drains.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._changed = asyncio.Event()

    def set(self, service: str, state: Any) -> None:
        """Says this of a service from now on.

        Args:
            service: Its name; empty for the whole process.
            state: `SERVING` or `NOT_SERVING`.
        """
        self._states[service] = state
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Any:
        if (state := self._states.get(request.service)) is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no such service here")
        return health_pb2.HealthCheckResponse(status=state)

    async def List(self, _request: health_pb2.HealthListRequest, _context: Context) -> Any:
        told = {service: health_pb2.HealthCheckResponse(status=state) for service, state in self._states.items()}
        return health_pb2.HealthListResponse(statuses=told)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        told = None
        while True:
            # Looked up before the state: what changes while the watcher is told is told next.
            changed, state = self._changed, self._states.get(request.service, _UNKNOWN)
            if state != told:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                told = state
            await changed.wait()
