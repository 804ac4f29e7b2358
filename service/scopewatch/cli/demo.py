"""`demo`: a real reader, or the bundled tiny one, on a handful of pairs."""

import argparse

from scopewatch.cli.settings import AddCommand, add_settings, settings


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("demo", _run, "Score a handful of pairs with a known reader, end to end, and exit.")
    parser.add_argument("--tiny", action="store_true", help="the bundled reader, even if a real one is there")
    add_settings(parser, ["reader_dir"])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.demo.tour import run

    return run(settings(args), tiny=args.tiny)
