"""`bench`: what this machine does."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.cli.terminal import is_read_by_people
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import DataError, SetupError
from scopewatch.files import write_text


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("bench", _run, "Measure this machine with your watchlist. Takes one to two minutes.")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each figure is taken at most; medians are kept"
    )
    parser.add_argument(
        "--within-s", type=float, default=100.0, help="about how long it may take; rounds that do not fit are left out"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write, for `plan --measured`")
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.engine.choices import check_places, choices
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    # Written so that what is no number is refused too.
    if not 0 < args.within_s < math.inf:
        raise SetupError(f"--within-s {args.within_s:g}: expected a number of seconds, more than 0")
    out: Path | None = args.out
    # Said before the minute of measuring, not after it.
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise SetupError(f"--out {out}: expected a file in a folder that exists")
    reader_and_saes = choices([load_watchlist(file) for file in config.watchlist])
    check_places(*reader_and_saes, config)
    from scopewatch.capacity.as_text import describe_curve
    from scopewatch.capacity.benchmark import benchmark
    from scopewatch.capacity.time_budget import TimeBudget

    with _progress() as say:
        curve = benchmark(config, args.rounds, say, TimeBudget(args.within_s))
    print(describe_curve(curve))
    if out:
        try:
            write_text(out, curve.model_dump_json(indent=2) + "\n")
        except DataError as error:
            raise SetupError(f"--out {error}") from None
    return 0


@contextmanager
def _progress() -> Iterator[Callable[[str, str], None]]:
    """Shows which part is measured: on a terminal with what of it, in a line that changes; else by a line for each."""
    began_s, told = time.monotonic(), set[str]()

    def say(part: str, _of_it: str) -> None:
        if part not in told:
            told.add(part)
            print(f"{time.monotonic() - began_s:5.1f} s  {part}", file=sys.stderr, flush=True)

    if not is_read_by_people(sys.stderr):
        yield say
        return
    from tqdm import tqdm

    with tqdm(bar_format="{elapsed}  {desc}", leave=False) as line:
        yield lambda part, of_it: line.set_description_str(f"{part}, {of_it}" if of_it else part)
