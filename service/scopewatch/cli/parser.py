"""The parser of the command line: argparse, whose help has looks on a terminal and which knows what was meant."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from scopewatch.cli.terminal import harmless, takes_looks
from scopewatch.config import GONE


class Parser(argparse.ArgumentParser):
    """Parses a command's arguments; what is misspelt is refused with what was probably meant."""

    _given: Sequence[str] = ()
    """The arguments that are parsed."""
    _shown_on: TextIO | None = None
    """Where help or usage are about to be printed."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._given = sys.argv[1:] if args is None else args
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and not self.commands:
            # Said by the command itself, which knows its flags; argparse leaves it to the program.
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Says what is wrong, and what was probably meant; exits with 2."""
        super().error(harmless("; ".join([message, *self._meant()])))

    def print_help(self, file: Any = None) -> None:
        """Prints the help, with looks where it goes to a terminal that takes them."""
        self._shown_on = file or sys.stdout
        super().print_help(file)

    def print_usage(self, file: Any = None) -> None:
        """Prints the usage, likewise."""
        self._shown_on = file or sys.stdout
        super().print_usage(file)

    def _get_formatter(self) -> argparse.HelpFormatter:
        if self._shown_on is None or not takes_looks(self._shown_on):
            return super()._get_formatter()
        from scopewatch.cli.looks import formatter

        defaults = self.formatter_class is argparse.ArgumentDefaultsHelpFormatter
        return formatter(self.prog, self._shown_on, defaults=defaults)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = meaning(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(
                action, error.message + (f"; did you mean {meant}?" if meant else "")
            ) from None

    @property
    def commands(self) -> Mapping[str, "Parser"]:
        """The parsers of this one's commands, by name."""
        found = [action.choices for action in self._actions if isinstance(action.choices, dict)]
        return found[0] if found else {}

    @property
    def arguments(self) -> Iterator[argparse.Action]:
        """The arguments of this parser and of its commands."""
        yield from self._actions
        for command in self.commands.values():
            yield from command.arguments

    def _meant(self) -> list[str]:
        """What the flags that there are not were probably meant to be, or what became of them, in sentences."""
        known = self._option_string_actions
        told = []
        for given in self._given:
            if given == "--":
                break
            flag = given.partition("=")[0]
            if not flag.startswith("--") or self._get_option_tuples(flag) or flag in known:
                continue
            if became := GONE.get(flag.removeprefix("--").removeprefix("no-").replace("-", "_")):
                told.append(f"{flag}: {became}")
            elif meant := meaning(flag, known):
                told.append(f"{flag}: did you mean {meant}?")
        return told


def meaning(misspelt: str, known: Iterable[str]) -> str:
    """The name that was probably meant; empty where none is near."""
    names = list(known)
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(misspelt.lower(), folded, n=1)
    return folded[near[0]] if near else ""
