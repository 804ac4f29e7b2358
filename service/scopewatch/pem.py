"""PEM files of certificates and keys, with errors that name the setting and the file."""

import ssl
from pathlib import Path

from scopewatch.errors import ConfigError


def read(setting: str, file: Path) -> bytes:
    """The content of a file.

    Args:
        setting: The setting, or the argument, that names the file.
        file: The file.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting} {file}: cannot be read: {error.strerror or error}") from None


def load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Loads a certificate chain and its private key.

    Args:
        context: Shows the certificate from now on.
        cert: The file of `tls_cert`.
        key: The file of `tls_key`.

    Raises:
        ConfigError: They are none, or do not belong together, or the key is encrypted.
    """

    def no_password() -> str:
        raise ConfigError(f"tls_key {key}: is encrypted, and there is nobody to ask for its password; decrypt it")

    try:
        context.load_cert_chain(cert, key, password=no_password)
    except OSError as error:
        why = reason(error)
        raise ConfigError(
            f"tls_cert {cert} and tls_key {key}: they are no certificate in PEM and its private key: {why}"
        ) from None


def load_signers(context: ssl.SSLContext, setting: str, file: Path) -> None:
    """Loads certificates of those whose signatures are trusted.

    Args:
        context: Trusts them from now on.
        setting: The setting, or the argument, that names the file.
        file: The file.

    Raises:
        ConfigError: It holds no certificates.
    """
    try:
        context.load_verify_locations(file)
    except OSError as error:
        raise ConfigError(f"{setting} {file}: holds no certificates in PEM: {reason(error)}") from None


def reason(error: OSError) -> str:
    """What an error of `ssl` says in words, without its source line."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return (getattr(error, "reason", None) or error.strerror or str(error)).lower().replace("_", " ")
