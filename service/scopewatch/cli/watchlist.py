"""`watchlist check | diff | replay`: what comes between a watchlist's calibration and its promotion."""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.argument_types import count
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS

if TYPE_CHECKING:
    from scopewatch.lifecycle.replay import Replay
    from scopewatch.pairs.labelled import LabelledPair


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command("watchlist", _run, "Check watchlists. Compare two of them, by what they say and on stored pairs.")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=does, description=does, formatter_class=group.formatter_class)
        parser.add_argument("--json", action="store_true", help="print JSON")
        return parser

    check = action("check", "Validate watchlists and show the evidence of each indicator.")
    check.add_argument("file", type=Path, nargs="+", help="watchlist files")
    check.add_argument("--load", action="store_true", help="load reader and SAEs, and hold the cards against them")
    check.add_argument("--strict", action="store_true", help="exit with 1 when an indicator has no card that fits")
    add_settings(check, ENGINE_SETTINGS)

    diff = action("diff", "Show what changed from one watchlist to another; exit with 1 if anything did.")
    replay = action("replay", "Show which verdicts over stored pairs would change from one watchlist to another.")
    for parser in (diff, replay):
        parser.add_argument("before", type=Path, help="watchlist file")
        parser.add_argument("after", type=Path, help="watchlist file")
    _add_replay(replay)


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("data", type=Path, help="JSONL with response and, if there are, prompt, history, label, id")
    replay.add_argument("--limit-shown", type=count, default=20, help="most changed verdicts shown; JSON has all")
    replay.add_argument("--show-text", action="store_true", help="show the pairs too, not only their lines and ids")
    add_settings(replay, ENGINE_SETTINGS)


def _run(args: argparse.Namespace) -> int:
    return {"check": _check, "diff": _diff, "replay": _replay}[args.action](args)


def _check(args: argparse.Namespace) -> int:
    from scopewatch.lifecycle.check import check_watchlist

    config = settings(args)
    logs.configure("error", "text")
    checked = [check_watchlist(file, config if args.load else None) for file in args.file]
    if args.json:
        print(json.dumps([one.document() for one in checked], ensure_ascii=False))
    else:
        for one in checked:
            print("\n".join(one.lines()))
    if any(one.error for one in checked):
        return 2
    return 1 if args.strict and not all(one.fits for one in checked) else 0


def _diff(args: argparse.Namespace) -> int:
    from scopewatch.lifecycle.compare import differences
    from scopewatch.watch.watchlist import load_watchlist

    found = differences(load_watchlist(args.before), load_watchlist(args.after))
    if args.json:
        print(json.dumps([asdict(difference) for difference in found], ensure_ascii=False))
    else:
        for difference in found:
            print(difference)
    return 1 if found else 0


def _replay(args: argparse.Namespace) -> int:
    from scopewatch.engine.choices import check_places, choices
    from scopewatch.lifecycle.replay import hear_watchlist, replay
    from scopewatch.pairs.labelled import read_texts
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    before, after = load_watchlist(args.before), load_watchlist(args.after)
    pairs = read_texts(args.data)
    for watchlist in (before, after):
        check_places(*choices([watchlist]), allow_download=config.allow_download)
    # One after the other, since they may have one name or different readers.
    result = replay(pairs, *(hear_watchlist(pairs, watchlist, config) for watchlist in (before, after)))
    if args.json:
        names = {
            side: {"file": str(w.file), "name": w.name, "digest": w.digest}
            for side, w in (("before", before), ("after", after))
        }
        print(json.dumps(names | asdict(result), ensure_ascii=False))
        return 1 if result.failures else 0
    _print(result, args.limit_shown, {pair.line: pair for pair in pairs} if args.show_text else {})
    return 1 if result.failures else 0


def _print(result: "Replay", limit: int, texts: "Mapping[int, LabelledPair]") -> None:
    from scopewatch.lifecycle.replay_text import failure_lines, replay_lines

    for line in replay_lines(result, limit, texts):
        print(line)
    for line in failure_lines(result, limit):
        print(line, file=sys.stderr)
