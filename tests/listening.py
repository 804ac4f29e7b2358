"""The gRPC door alone, as it is before it opens, and calls to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Authority, Files
from scopewatch.doors.grpc.listener import GrpcDoor
from scopewatch.doors.tls import Certificates
from scopewatch.metrics import Metrics
from servers import NO_RETRIES, config


@asynccontextmanager
async def listening(
    certificates: Certificates | None = None, address: str = "127.0.0.1:0", health_address: str = ""
) -> AsyncIterator[dict[str, str]]:
    """The gRPC door as it is before it opens; its addresses by their settings."""
    settings = config(Path("unused.yaml"), grpc_address=address, health_address=health_address)
    door = GrpcDoor(settings, Metrics(), certificates)
    try:
        yield await door.listen()
    finally:
        await door.close(0)


async def ask(channel: grpc.aio.Channel) -> None:
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def trusting(authority: Authority, shown: Files | None = None) -> grpc.ChannelCredentials:
    key, chain = (shown.key.read_bytes(), shown.cert.read_bytes()) if shown else (None, None)
    return grpc.ssl_channel_credentials(authority.file.read_bytes(), key, chain)


async def outcome(address: str, credentials: grpc.ChannelCredentials | None) -> str:
    """How a call on a connection of its own ends."""
    channel = (
        grpc.aio.secure_channel(address, credentials, options=NO_RETRIES)
        if credentials
        else grpc.aio.insecure_channel(address, options=NO_RETRIES)
    )
    async with channel:
        try:
            await ask(channel)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "answered"
