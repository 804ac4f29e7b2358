"""Arguments that say which server is asked, and by whom."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.argument_types import text_of

if TYPE_CHECKING:
    from scopewatch.client import Client


def add_server(parser: argparse.ArgumentParser, *, address: str | None, timeout_s: float, without: str = "") -> None:
    """Adds the arguments of `connect`.

    Args:
        parser: The command's parser.
        address: The server that is asked where none is named; None asks none.
        timeout_s: The deadline of a call, in seconds, where none is given.
        without: What happens where no server is asked, for the help.
    """
    parser.add_argument("--address", default=address, help=f"host:port of the server, or unix:/path{without}")
    parser.add_argument("--tls-ca", type=Path, help="PEM file of those who sign the server's certificate; makes it TLS")
    parser.add_argument("--tls-cert", type=Path, help="PEM file of a certificate to show to the server")
    parser.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    parser.add_argument("--token-file", type=Path, help="file with the bearer token that says who asks")
    parser.add_argument("--insecure", action="store_true", help="send the token in plaintext to another machine")
    parser.add_argument("--timeout-s", type=float, default=timeout_s, help="deadline of a call")


def connect(args: argparse.Namespace) -> "Client":
    """A client of the server that the arguments name.

    Raises:
        SetupError: A file cannot be read, or the arguments do not fit each other.
    """
    from scopewatch.client import Client

    return Client(
        args.address,
        timeout_s=args.timeout_s,
        tls_ca=args.tls_ca,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        token=text_of(args.token_file).strip() if args.token_file else None,
        insecure=args.insecure,
    )
