"""`scan`: files of any size scored with the online scorer."""

import argparse
import signal
import sys
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.argument_types import count
from scopewatch.cli.data_files import DATA_HELP, add_reading, data_of, reading_of, tell
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import ConfigError


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("scan", _run, "Score files with the online scorer, in this process. Goes on where it was stopped.")
    parser.add_argument("data", nargs="+", help=DATA_HELP)
    parser.add_argument("--out", type=Path, required=True, help="result, .parquet or .jsonl; until done in OUT.parts")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--part-rows", type=count, default=1024, help="rows after which what is done is saved")
    add_reading(parser)
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    config = settings(args)
    if len(config.watchlist) > 1:
        raise ConfigError(f"scan scores against one watchlist, not {len(config.watchlist)}; run it once for each")
    reading = reading_of(args)
    data = data_of(args.data, reading)

    from scopewatch.lifecycle.parts import parts_of
    from scopewatch.lifecycle.scan import check_out, scan_files

    check_out(data, args.out, overwrite=args.overwrite)
    logs.configure("warning", "text")
    result = scan_files(data, args.out, config, part_rows=args.part_rows, reading=reading)
    if isinstance(result, signal.Signals):
        print(f"scopewatch: stopped; the same command goes on with {parts_of(args.out)}", file=sys.stderr)
        return 128 + result
    print(f"{args.out}: {result.tally.read} rows, {result.flagged} flagged, {result.incomplete} incomplete")
    code = tell(result.tally, did="scored")
    return code if result.tally.used else 1
