"""Where a gRPC server listens: TCP in plaintext or TLS, a socket in a file, and a second port for health alone."""

import os
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc

from scopewatch.config import socket_file
from scopewatch.doors.grpc.health import Health
from scopewatch.doors.tls import Certificates, Loaded
from scopewatch.errors import ConfigError

_HEALTH_OPTIONS = [
    ("grpc.max_receive_message_length", 4 << 10),
    ("grpc.max_concurrent_streams", 16),
    ("grpc.so_reuseport", 0),
]
"""Probes name a service, and do no more."""


def add_port(server: grpc.aio.Server, address: str, certificates: Certificates | None, *, setting: str) -> str:
    """Lets a server listen.

    Args:
        server: A server that has not started.
        address: `host:port`, where port 0 picks a free one, or `unix:` and a path; only this user may connect there.
        certificates: What is shown to callers and asked of them; None for plaintext.
        setting: The setting that the address comes from.

    Returns:
        The address it listens on.

    Raises:
        ConfigError: The address cannot be bound.
    """
    file = socket_file(address)
    if file:
        _check_free(file, setting)
    # What bind creates has these rights from the beginning.
    mask = os.umask(0o177) if file else None
    try:
        if certificates:
            port = server.add_secure_port(address, server_credentials(certificates))
        else:
            port = server.add_insecure_port(address)
    except RuntimeError:
        why = "does its folder exist, and may this user write there?" if file else "is it in use?"
        raise ConfigError(f"{setting} {address}: cannot be bound; {why}") from None
    finally:
        if mask is not None:
            os.umask(mask)
    return address if file else f"{address.rpartition(':')[0]}:{port}"


def server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Credentials that show each new connection the newest certificate, and ask for the caller's where that is set."""
    shown = certificates.current

    def newest() -> Any:
        """The configuration for the next connection; None where it is the one before."""
        nonlocal shown
        if certificates.current is shown:
            return None
        shown = certificates.current
        return _configuration(shown)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown), newest, require_client_authentication=shown.pem.client_ca is not None
    )


def _configuration(loaded: Loaded) -> grpc.ServerCertificateConfiguration:
    pem = loaded.pem
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.client_ca)


def _check_free(file: Path, setting: str) -> None:
    """Makes sure that a socket's file is not another's; gRPC replaces one that nobody listens on.

    Raises:
        ConfigError: The file is no socket, or somebody listens there.
    """
    if not file.exists():
        return
    if not file.is_socket():
        raise ConfigError(f"{setting} unix:{file}: is there and no socket; take another path")
    with closing(socket.socket(socket.AF_UNIX)) as other:
        if other.connect_ex(str(file)) == 0:
            raise ConfigError(f"{setting} unix:{file}: cannot be bound; another process listens there")


class HealthPort:
    """A server that tells nothing but health, in plaintext, for probes that have no certificate.

    Args:
        address: `host:port` to listen on; port 0 picks a free one.
        servicer: Answers, as it does beside the other services.
    """

    def __init__(self, address: str, servicer: Health) -> None:
        self._address = address
        self._server = grpc.aio.server(options=_HEALTH_OPTIONS)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)

    async def listen(self) -> str:
        """Begins to answer.

        Returns:
            The address it listens on.

        Raises:
            ConfigError: The address cannot be bound.
        """
        address = add_port(self._server, self._address, None, setting="health_address")
        await self._server.start()
        return address

    async def close(self) -> None:
        """Stops answering."""
        await self._server.stop(0)
