"""The certificate that the doors show and those that they ask for: files, checked, and read again when they change."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scopewatch.config import Config
from scopewatch.errors import ConfigError
from scopewatch.files import expanded
from scopewatch.metrics import Metrics
from scopewatch.pem import load_pair, load_signers, read, reason

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files held at one time."""

    cert: bytes
    """The certificate chain, its owner first."""
    key: bytes
    """The private key."""
    client_ca: bytes | None
    """Those who sign callers' certificates; None where callers need none."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A certificate that can be shown, made of one state of the files."""

    pem: Pem
    context: ssl.SSLContext
    """For servers that use `ssl`; it asks for callers' certificates where `pem` says who signs those."""
    expires_s: float
    """When the certificate expires, in seconds since 1970."""


class Certificates:
    """The files of `tls_cert`, `tls_key` and `tls_client_ca`, and what they held when they last were in order.

    Args:
        cert: PEM file with a certificate chain.
        key: PEM file with the private key.
        client_ca: PEM file with those who sign callers' certificates; None asks callers for none.
        metrics: Shows when the certificate expires, and counts readings.

    Raises:
        ConfigError: The files are not in order; names the setting, the file and what is wrong.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, *, metrics: Metrics) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._metrics = metrics
        self._refused: Pem | str | None = None
        self.current = self._load(self._read())
        """What new connections are made with."""
        metrics.certificate_read(self.current.expires_s)

    @classmethod
    def of(cls, config: Config, *, metrics: Metrics) -> Self | None:
        """The certificates that the settings name; None where they name none.

        Raises:
            ConfigError: The files are not in order.
        """
        if not config.tls_cert:
            return None
        client_ca = expanded(config.tls_client_ca) if config.tls_client_ca else None
        return cls(expanded(config.tls_cert), expanded(config.tls_key), client_ca, metrics=metrics)

    def look(self) -> None:
        """Reads the files, and takes what they hold if that has changed and is in order; otherwise logs it once."""
        pem: Pem | None = None
        try:
            pem = self._read()
            if pem == self.current.pem:
                return
            loaded = self._load(pem)
            if pem != self._read():
                return  # They changed while they were read; the next look finds out.
        except ConfigError as error:
            self._metrics.certificate_refused()
            if self._refused != (pem or str(error)):
                self._refused = pem or str(error)
                log.error("the new certificate is refused, and the one before goes on: %s", error)  # noqa: TRY400
            return
        self.current = loaded
        self._metrics.certificate_read(loaded.expires_s)
        log.info("took a new certificate", extra={"tls_cert": str(self._cert)})

    @asynccontextmanager
    async def watched(self, every_s: float) -> AsyncIterator[None]:
        """Looks at the files again and again until the block is left.

        Args:
            every_s: The time between two looks, in seconds; 0 for none.
        """

        async def watch() -> None:
            while every_s:
                await asyncio.sleep(every_s)
                await asyncio.to_thread(self.look)

        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    def _read(self) -> Pem:
        client_ca = read("tls_client_ca", self._client_ca) if self._client_ca else None
        return Pem(read("tls_cert", self._cert), read("tls_key", self._key), client_ca)

    def _load(self, pem: Pem) -> Loaded:
        """Loads the files, of which `pem` is the content."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        load_pair(context, self._cert, self._key)
        expires_s = self._checked_expiry(context)
        if self._client_ca:
            load_signers(context, "tls_client_ca", self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return Loaded(pem, context, expires_s)

    def _checked_expiry(self, server: ssl.SSLContext) -> float:
        """When the certificate expires, once a client that trusts exactly this chain has checked its dates and uses."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        load_signers(client, "tls_cert", self._cert)
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        caller = client.wrap_bio(to_client, to_server)
        ends = [caller, server.wrap_bio(to_server, to_client, server_side=True)]
        try:
            # Each turn passes one flight of messages, of which TLS 1.2 has the most, four.
            for end in ends * 4:
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        except ssl.SSLError as error:
            raise ConfigError(f"tls_cert {self._cert}: clients would refuse it: {reason(error)}") from None
        return float(ssl.cert_time_to_seconds(str((caller.getpeercert() or {})["notAfter"])))
