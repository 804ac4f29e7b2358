"""`audit verify`: whether an audit log is as it was written."""

import argparse
from pathlib import Path

from scopewatch.cli.settings import AddCommand


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command("audit", _run, "Look into the audit log of a service.")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    does = "Walk the chain of an audit log; exit with 1 at the first record that was changed, moved or taken out."
    verify = actions.add_parser("verify", help=does, description=does)
    verify.add_argument("folder", type=Path, metavar="DIR", help="folder of the audit log, as audit_dir names it")
    verify.add_argument(
        "--head",
        default="",
        metavar="HASH",
        help="hash of a record that the log must hold, as the service logged it; without one nobody sees a cut-off end",
    )


def _run(args: argparse.Namespace) -> int:
    from scopewatch.audit.verify import verify

    found = verify(args.folder, args.head)
    if found.broken:
        print(f"{found.broken.place}: {found.broken.what}: {found.broken.problem}")
    if found.begins_after:
        print(f"older days were deleted; goes on from {found.begins_after}")
    print(f"{found.records} records{' before it' if found.broken else ''}, head {found.head.seq} {found.head.hash}")
    return 1 if found.broken else 0
