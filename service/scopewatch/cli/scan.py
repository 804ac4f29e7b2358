"""`scan`: files of any size scored with the online scorer."""

import argparse
import signal
import sys

from scopewatch import logs
from scopewatch.cli.argument_types import count
from scopewatch.cli.data_files import DATA_HELP, add_reading, data_of, reading_of, tell
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import ConfigError

_FORMATS = ("jsonl", "parquet")


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command(
        "scan", _run, "Score files with the online scorer, in this process or on Ray. Goes on where it was stopped."
    )
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    parser.add_argument(
        "--out",
        required=True,
        help="result, .parquet or .jsonl; or a folder (with / at its end), where each file has a result of its own",
    )
    parser.add_argument(
        "--each", choices=_FORMATS, default="", help="format of the results in a folder; jsonl if not said"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that are there already")
    parser.add_argument("--part-rows", type=count, default=1024, help="rows after which what is done is saved")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="score on Ray: on this machine, or on the cluster of this address (auto: the one this process is in)",
    )
    parser.add_argument(
        "--workers", type=count, default=2, help="processes that score, with --ray; each loads the reader"
    )
    add_reading(parser)
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    config = settings(args)
    if len(config.watchlist) > 1:
        raise ConfigError(f"scan scores against one watchlist, not {len(config.watchlist)}; run it once for each")
    reading = reading_of(args)
    data = data_of(args.data, reading)

    from scopewatch.lifecycle.out import out_of
    from scopewatch.lifecycle.scan import Wanted, scan_files

    out = out_of(args.out, args.each)
    out.check(data, overwrite=args.overwrite)
    logs.configure("warning", "text")
    wanted = Wanted(data, out, args.part_rows, args.overwrite, reading)
    if args.ray:
        from scopewatch.lifecycle.ray_scan import scan_on_ray

        result = scan_on_ray(wanted, config, address=args.ray, workers=args.workers)
    else:
        result = scan_files(wanted, config)
    if isinstance(result, signal.Signals):
        print(f"scopewatch: stopped; the same command goes on with {out.parts}", file=sys.stderr)
        return 128 + result
    print(f"{args.out}: {result.tally.read} rows, {result.flagged} flagged, {result.incomplete} incomplete")
    code = tell(result.tally, did="scored")
    return code if result.tally.used else 1
