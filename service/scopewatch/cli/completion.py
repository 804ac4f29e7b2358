"""`completion`: the script by which a shell completes commands, flags and files."""

import argparse
from pathlib import Path

from scopewatch.cli.settings import AddCommand
from scopewatch.config import FILE_LISTS, FILES, SECRET_FILES

_SHELLS = ("bash", "zsh", "tcsh")
_FILES = frozenset({"data", "train", "a", "b", "reader", "sae", "config", *FILES, *FILE_LISTS, *SECRET_FILES})
"""Arguments that name a file or a folder and whose type does not say so."""


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("completion", _run, "Print the script that completes commands, flags and files in your shell.")
    parser.add_argument("shell", choices=_SHELLS, help="such as: source <(scopewatch completion bash)")


def _run(args: argparse.Namespace) -> int:
    import shtab

    from scopewatch.cli import _parser

    program = _parser()
    for action in program.arguments:
        if action.type is Path or action.dest.removeprefix("setting_") in _FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(program, args.shell))
    return 0
