"""Where `calibrate` writes to: whether it can, found out before the work."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.engine import absolute
from scopewatch.cli.settings import check_written
from scopewatch.errors import ConfigError

if TYPE_CHECKING:
    from scopewatch.sources import ReaderSource, SaeSource
    from scopewatch.watch.indicators import Indicator
    from scopewatch.watch.watchlist import Watchlist


def check_places(args: argparse.Namespace) -> None:
    """Refuses files to write that would be lost work, or lost data."""
    places = [args.out.resolve(), *([args.html.resolve()] if args.html else [])]
    for place in places:
        if place in {file.resolve() for file in args.data} or places.count(place) > 1:
            raise ConfigError(f"{place}: is named twice, to be written; give another --out or --html")
    check_written(args.html)
    if not args.out.exists():
        watchlist_name(args)


def watchlist_name(args: argparse.Namespace) -> str:
    """The one given, else the file's.

    Raises:
        ConfigError: The file's is none.
    """
    try:
        name: str = args.name or valid_name(args.out.stem)
    except argparse.ArgumentTypeError as problem:
        raise ConfigError(f"--out: {problem}, which names the watchlist; give --name") from None
    return name


def rehearse_writing(
    args: argparse.Namespace, reader: "ReaderSource", saes: "Mapping[str, SaeSource]", **made: object
) -> None:
    """Refuses what could not be written, before the work.

    Args:
        args: The command's.
        reader: The indicator's.
        saes: Those it will name.
        made: What it will be made of, with any numbers.
    """
    from scopewatch.watch.splice import write_indicator

    draft = indicator_of(args, threshold=0.0, **made)
    write_indicator(args.out, draft, reader, saes, watchlist_name(args), rehearse=True)


def parts_saes(args: argparse.Namespace, base: "Watchlist", names: "Sequence[str]") -> "dict[str, SaeSource]":
    """The SAEs of a combination's parts, which have to be in the file that it is written into.

    Raises:
        ConfigError: They are not, or not the same, or one would be replaced.
    """
    from scopewatch.watch.watchlist import load_watchlist

    if args.indicator in names:
        raise ConfigError(f"--indicator: {args.indicator} cannot be made of itself; give another name")
    parts = [indicator for indicator in base.indicators if indicator.name in names]
    there = load_watchlist(args.out).indicators if args.out.exists() else ()
    if lacking := [part.name for part in parts if part not in there]:
        raise ConfigError(
            f"--out: a combination stands beside its parts, and {args.out} has not the {', '.join(lacking)} of "
            f"{base.file}; give --out {base.file} or a copy of it"
        )
    return {part.key.sae: absolute(base, base.saes[part.key.sae]) for entry in parts for part in entry.features}


def probe_file(args: argparse.Namespace) -> Path:
    """Of a probe, beside the watchlist."""
    file: Path = args.out.absolute().with_name(f"{args.out.stem}.{args.indicator}.safetensors")
    return file


def indicator_of(args: argparse.Namespace, **made: object) -> "Indicator":
    """The indicator as the arguments name it.

    Args:
        args: The command's.
        made: Its other fields.

    Raises:
        ConfigError: An argument is wrong.
    """
    from pydantic import ValidationError

    from scopewatch.watch.indicators import Indicator

    said = {"name": args.indicator, "label": args.label, "segment": args.segment, "severity": args.severity}
    try:
        return Indicator.model_validate(said | made)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"--{place}: {problem['msg'].removeprefix('Value error, ')}") from None


def valid_name(argument: str) -> str:
    """Argument type: a name as a watchlist has it."""
    from scopewatch.sources import NAME

    if not re.fullmatch(NAME, argument):
        raise argparse.ArgumentTypeError(
            f"{argument!r}: expected a letter, then at most 63 letters, digits, '_', '.' and '-'"
        )
    return argument
