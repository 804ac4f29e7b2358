"""`demo`: the bundled reader on a handful of pairs."""

import argparse

from scopewatch.cli.settings import AddCommand


def add(command: AddCommand) -> None:
    """Adds the command."""
    command("demo", _run, "Run the bundled reader on a handful of pairs, end to end, and exit.")


def _run(_: argparse.Namespace) -> int:
    from scopewatch.demo.tour import run

    return run()
