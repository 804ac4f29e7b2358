"""`settings`: every setting, its value, and where that comes from."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from scopewatch.cli.settings import AddCommand, add_settings, effective_settings
from scopewatch.cli.terminal import is_read_by_people, show_table
from scopewatch.config import Config

_DEFAULT = "default"


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command(
        "settings", _run, "Show every setting and where it comes from. Into a file, it writes what --config reads."
    )
    parser.add_argument("--changed", action="store_true", help="leave out settings that nobody set")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, Config.model_fields)


def _run(args: argparse.Namespace) -> int:
    found = effective_settings(args)
    sources = {name: found.sources.get(name, _DEFAULT) for name in Config.model_fields}
    values = {name: _plain(value) for name, value in found.config if sources[name] != _DEFAULT or not args.changed}
    if args.json:
        shown = {name: {"value": value, "source": sources[name]} for name, value in values.items()}
        print(json.dumps(shown, ensure_ascii=False))
    elif is_read_by_people(sys.stdout):
        rows = ((name, _for_people(value), sources[name]) for name, value in values.items())
        show_table(sys.stdout, ("setting", "value", "source"), rows)
    else:
        print("\n".join(_toml_lines(values, sources)))
    return 0


def _plain(value: object) -> object:
    """A value as JSON has it; of a secret, whether there is one."""
    if isinstance(value, SecretStr):
        return str(value)
    if isinstance(value, tuple):
        return [str(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _for_people(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _toml_lines(values: Mapping[str, object], sources: Mapping[str, str]) -> list[str]:
    """The lines of a file for `--config`; what is secret stands in a comment."""
    secrets = {name for name, field in Config.model_fields.items() if field.annotation is SecretStr}
    return [
        f"{'# ' if name in secrets else ''}{name} = {_toml(value)}  # {_toml(sources[name])[1:-1]}"
        for name, value in values.items()
    ]


def _toml(value: object) -> str:
    """A value in TOML, whose texts and lists are written as JSON's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
