"""`scan`: a file of any size scored with the online scorer."""

import argparse
import signal
import sys
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.argument_types import count
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import ConfigError


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command(
        "scan", _run, "Score a file with the online scorer, in this process. Goes on where it was stopped."
    )
    parser.add_argument("data", type=Path, help="JSONL or Parquet with response and, if there are, prompt, history, id")
    parser.add_argument("--out", type=Path, required=True, help="result, .parquet or .jsonl; until done in OUT.parts")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--part-rows", type=count, default=1024, help="rows after which what is done is saved")
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.lifecycle.parts import parts_of
    from scopewatch.lifecycle.scan import check_files, scan_file

    config = settings(args)
    if len(config.watchlist) > 1:
        raise ConfigError(f"scan scores against one watchlist, not {len(config.watchlist)}; run it once for each")
    check_files(args.data, args.out, overwrite=args.overwrite)
    logs.configure("warning", "text")
    result = scan_file(args.data, args.out, config, part_rows=args.part_rows)
    if isinstance(result, signal.Signals):
        print(f"scopewatch: stopped; the same command goes on with {parts_of(args.out)}", file=sys.stderr)
        return 128 + result
    print(f"{args.out}: {result.rows} rows, {result.flagged} flagged")
    if result.failed:
        print(f"scopewatch: {result.failed} rows could not be scored; see their column error", file=sys.stderr)
    return 1 if result.failed else 0
