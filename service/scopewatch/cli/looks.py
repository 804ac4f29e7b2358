"""How help looks on a terminal. Only what is shown on one imports Rich, so that nothing else waits for it."""

import argparse
from typing import TextIO

from rich.console import Console
from rich_argparse import RichHelpFormatter


class _Formatter(RichHelpFormatter):
    """Argparse's layout with colours; texts are never markup, whatever brackets they hold."""

    help_markup = False
    text_markup = False
    group_name_formatter = staticmethod(str)


class _WithDefaults(argparse.ArgumentDefaultsHelpFormatter, _Formatter):
    """The same, with the default of each flag."""


def formatter(prog: str, terminal: TextIO, *, defaults: bool) -> argparse.HelpFormatter:
    """What formats the help of a command.

    Args:
        prog: The name of the command.
        terminal: Where it is shown.
        defaults: Whether the default of each flag is told.
    """
    return (_WithDefaults if defaults else _Formatter)(prog, console=Console(file=terminal))
