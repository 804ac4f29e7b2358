"""How a client shows who it is: certificates over TLS, and a bearer token."""

import re
import ssl
from collections.abc import Callable
from pathlib import Path

import grpc

from scopewatch.errors import ConfigError
from scopewatch.pem import load_pair, load_signers, read


def channel_credentials(
    tls_ca: Path | str | None, tls_cert: Path | str | None, tls_key: Path | str | None
) -> grpc.ChannelCredentials | None:
    """The credentials of a TLS channel.

    Args:
        tls_ca: PEM file of those who sign the server's certificate; None for those that the system trusts.
        tls_cert: PEM file of the chain of the client's own certificate; None shows none.
        tls_key: PEM file of its private key.

    Returns:
        The credentials; None where no file is named, for plaintext.

    Raises:
        ConfigError: The files are not in order; names the argument and the file.
    """
    if bool(tls_cert) != bool(tls_key):
        raise ConfigError("tls_cert and tls_key belong together; give both, or neither")
    if not tls_ca and not tls_cert:
        return None
    checked, ca, chain, key = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), None, None, None
    if tls_ca:
        ca = read("tls_ca", Path(tls_ca))
        load_signers(checked, "tls_ca", Path(tls_ca))
    if tls_cert and tls_key:
        chain, key = read("tls_cert", Path(tls_cert)), read("tls_key", Path(tls_key))
        load_pair(checked, Path(tls_cert), Path(tls_key))
    return grpc.ssl_channel_credentials(ca, key, chain)


def bearer(token: str | Callable[[], str]) -> tuple[tuple[str, str]]:
    """The metadata by which a call carries a token.

    Args:
        token: The token, or what gives the newest one.

    Raises:
        ConfigError: It cannot be sent; the message does not show it.
    """
    text = token if isinstance(token, str) else token()
    if not re.fullmatch(r"[!-~]+", text):
        raise ConfigError("token: is empty, or holds what is no visible ASCII character; give it as it was issued")
    return (("authorization", f"Bearer {text}"),)
