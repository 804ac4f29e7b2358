"""`canary record | check`: fixed pairs whose scores show that a reader computes what it did."""

import argparse
import asyncio
import json
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.argument_types import check_written
from scopewatch.cli.data_files import DATA_HELP, add_columns, columns_of, data_of
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import DataError


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command(
        "canary", _run, "Record what fixed pairs score. Check, later or elsewhere, that they still score it."
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=does, description=does, formatter_class=group.formatter_class)
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser

    record = action("record", "Write a canary file: pairs as they are, what fires on them, and their scores.")
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help="canary file to write, JSON")
    record.add_argument("--overwrite", action="store_true", help="write over a file that is there")
    record.add_argument(
        "--pairs",
        nargs="+",
        default=[],
        metavar="FILE",
        help=f"{DATA_HELP}; the texts stand in the canary file as they are: write some, take no caller's "
        "(default: four pairs that come with the program)",
    )
    record.add_argument(
        "--tolerate",
        action="append",
        default=[],
        choices=("float32", "bfloat16"),
        help="another dtype that the reader may run in: how far scores lie apart in it is measured; may be repeated",
    )
    add_columns(record)
    check = action("check", "Have a canary file judged by this reader; exit with 1 where it deviates.")
    check.add_argument("file", type=Path, help="canary file")
    for parser in (record, check):
        add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    return {"record": _record, "check": _check}[args.action](args)


def _record(args: argparse.Namespace) -> int:
    config = settings(args)
    logs.configure("error", "text")
    check_written(args.out)
    if args.out.exists() and not args.overwrite:
        raise DataError(f"{args.out}: is there already; name another file, or give --overwrite")
    from scopewatch.pairs.data_files import Reading

    reading = Reading(columns_of(args), strict=True)
    files = data_of(args.pairs, reading) if args.pairs else []
    _check_places(config)

    from scopewatch.lifecycle.canary_record import pairs_of, record

    recording = asyncio.run(record(pairs_of(files, reading), config, args.tolerate))
    digest = recording.document.write(args.out)
    if args.json:
        about = recording.document.model_dump(mode="json", include={"made_with", "tolerances", "indicators"})
        about["apart"] = {
            how: {"scores": one.scores, "activations": one.activations} for how, one in recording.apart.items()
        }
        print(json.dumps({"file": str(args.out), "digest": digest, "pairs": len(recording.document.pairs)} | about))
    else:
        print("\n".join([f"{args.out}: written", *recording.lines()]))
    return 0


def _check(args: argparse.Namespace) -> int:
    from scopewatch.watch.canary_file import load_canaries

    config = settings(args)
    logs.configure("error", "text")
    recorded = load_canaries(args.file)
    _check_places(config)

    from scopewatch.lifecycle.canary_record import check

    verdict = asyncio.run(check(recorded, config))
    if args.json:
        print(json.dumps(verdict.document()))
    else:
        print("\n".join([f"{args.file}: {'as recorded' if verdict.ok else 'deviates'}", *verdict.lines()]))
    return 0 if verdict.ok else 1


def _check_places(config: Config) -> None:
    """Refuses watchlists whose reader or SAEs are not there, before anything is loaded."""
    from scopewatch.engine.choices import check_places, choices
    from scopewatch.watch.watchlist import load_watchlist

    check_places(*choices([load_watchlist(file) for file in config.watchlist]), config)
