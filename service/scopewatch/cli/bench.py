"""`bench`: what this machine does."""

import argparse
import sys
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import DataError, SetupError
from scopewatch.files import write_text


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("bench", _run, "Measure this machine with your watchlist. Takes about a minute.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each figure is taken; medians are kept")
    parser.add_argument("--out", type=Path, help="JSON file to write, for `plan --measured`")
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.engine.choices import check_places, choices
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    out: Path | None = args.out
    # Said before the minute of measuring, not after it.
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise SetupError(f"--out {out}: expected a file in a folder that exists")
    reader_and_saes = choices([load_watchlist(file) for file in config.watchlist])
    check_places(*reader_and_saes, config)
    from scopewatch.capacity.as_text import describe_curve
    from scopewatch.capacity.benchmark import benchmark

    curve = benchmark(config, args.rounds, lambda text: print(text, file=sys.stderr, flush=True))
    print(describe_curve(curve))
    if out:
        try:
            write_text(out, curve.model_dump_json(indent=2) + "\n")
        except DataError as error:
            raise SetupError(f"--out {error}") from None
    return 0
