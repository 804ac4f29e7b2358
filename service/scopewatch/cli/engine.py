"""Which reader and which SAE an offline command runs."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scopewatch.cli.settings import SAE_HELP, add_sae_options, sae_source, text
from scopewatch.errors import ConfigError

if TYPE_CHECKING:
    from scopewatch.sources import ReaderSource, SaeSource
    from scopewatch.watch.watchlist import Watchlist

    Source = TypeVar("Source", ReaderSource, SaeSource)


def add_reader_and_sae(parser: argparse._ActionsContainer) -> None:
    """The arguments of `reader_of` and `sae_of`."""
    parser.add_argument("--reader", type=text, default="", help="reader directory or hub id")
    parser.add_argument("--sae", type=text, default="", help=f"name in the watchlist, or {SAE_HELP}")
    add_sae_options(parser)


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    """The argument for where pooled features lie."""
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("~/.cache/scopewatch/calibration"),
        help="where pooled features are kept, for the next run too",
    )


def reader_of(args: argparse.Namespace, base: "Watchlist") -> "ReaderSource":
    """The reader of the arguments, else the watchlist's. Its path, if it has one, counts from the working directory."""
    from scopewatch.sources import ReaderSource

    if not args.reader:
        return absolute(base, base.reader)
    return ReaderSource.named(args.reader)


def sae_of(args: argparse.Namespace, base: "Watchlist") -> "tuple[str, SaeSource]":
    """The SAE of the arguments, else the watchlist's, and its name there, empty where it has none.

    Raises:
        ConfigError: The watchlist has several, or a reader was named without one.
    """
    probes = {part.key.sae for entry in base.indicators if entry.kind == "probe" for part in entry.features}
    known = {name: source for name, source in base.saes.items() if name not in probes}
    if args.sae and args.sae not in known:
        return "", sae_source(args)
    if args.reader and not args.sae:
        raise ConfigError("--reader: say with --sae which SAE was made for it")
    if not args.sae and len(known) != 1:
        raise ConfigError(f"--sae: {base.file} has {len(known)} SAEs ({', '.join(sorted(known))}); say which")
    name = args.sae or next(iter(known))
    return name, absolute(base, known[name])


def absolute(base: "Watchlist", source: "Source") -> "Source":
    """The source with its path, if it has one, counted from the root."""
    path = str(base.resolve(source.path).absolute()) if source.path else ""
    return source.model_copy(update={"path": path})
