"""`token new | hash | check`: tokens for callers, and the role file that knows them by their digests."""

import argparse
import re
import secrets
import sys
from pathlib import Path

from scopewatch.cli.settings import AddCommand
from scopewatch.errors import DataError

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,512}=*", re.ASCII)


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command("token", _run, "Make tokens for callers, and check the role file that says who may ask for what.")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=does, description=does)

    action("new", "Print a random token, and, on standard error, what stands for it in a role file.")
    action("hash", "Read a token from standard input, and print what stands for it in a role file.")
    check = action("check", "Validate a role file and list its callers.")
    check.add_argument("file", type=Path, help="role file")


def _run(args: argparse.Namespace) -> int:
    return {"new": _new, "hash": _hash, "check": _check}[args.action](args)


def _new(_: argparse.Namespace) -> int:
    from scopewatch.doors.role_file import token_digest

    token = f"swt_{secrets.token_urlsafe(32)}"  # 256 random bits
    print(token)
    print(f'tokens: ["{token_digest(token)}"]', file=sys.stderr)
    return 0


def _hash(_: argparse.Namespace) -> int:
    from scopewatch.doors.role_file import token_digest

    token = sys.stdin.readline(1024).rstrip("\r\n")
    if not _TOKEN.fullmatch(token):
        raise DataError(
            "standard input: expected one token of 32 to 512 letters, digits and ._~+/-; "
            "a shorter one is found by trying, `scopewatch token new` makes one"
        )
    print(token_digest(token))
    return 0


def _check(args: argparse.Namespace) -> int:
    from scopewatch.doors.role_file import load_role_file

    for account in load_role_file(args.file, round_scores=0.0).accounts:
        print(f"{account.caller.name}: {', '.join(sorted(account.roles))}")
    return 0
