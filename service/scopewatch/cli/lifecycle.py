"""`scan`, and `watchlist check | diff | replay`: what comes between a watchlist's calibration and its promotion."""

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, count, settings
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from scopewatch.app.load import Loaded
    from scopewatch.lifecycle.replay import Rates, Replay, Said
    from scopewatch.lifecycle.scan import Scanned
    from scopewatch.pairs.labelled import LabelledPair
    from scopewatch.watch.watchlist import Watchlist


def add(command: AddCommand) -> None:
    """Adds the commands."""
    scan = command("scan", _scan, "Score a file with the online scorer, in this process. Goes on where it was stopped.")
    scan.add_argument("data", type=Path, help="JSONL or Parquet with response and, if there are, prompt, history, id")
    scan.add_argument("--out", type=Path, required=True, help="result, .parquet or .jsonl; until done in OUT.parts")
    scan.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    scan.add_argument("--part-rows", type=count, default=1024, help="rows after which what is done is saved")
    add_settings(scan, ["watchlist", *ENGINE_SETTINGS])

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

    diff = action("diff", "Show what changed from one watchlist to another; exit with 1 if anything did.")
    replay = action("replay", "Show which verdicts over stored pairs would change from one watchlist to another.")
    for parser in (diff, replay):
        parser.add_argument("before", type=Path, help="watchlist file")
        parser.add_argument("after", type=Path, help="watchlist file")
    replay.add_argument("data", type=Path, help="JSONL with response and, if there are, prompt, history, label, id")
    replay.add_argument("--limit-shown", type=count, default=20, help="most changed verdicts shown; JSON has all")
    replay.add_argument("--show-text", action="store_true", help="show the pairs too, not only their lines and ids")
    for parser in (check, replay):
        add_settings(parser, ENGINE_SETTINGS)


def _run(args: argparse.Namespace) -> int:
    return {"check": _check, "diff": _diff, "replay": _replay}[args.action](args)


# scan


def _scan(args: argparse.Namespace) -> int:
    from scopewatch.app.load import load
    from scopewatch.lifecycle.scan import check_files, parts_of

    config = settings(args)
    if len(config.watchlist) > 1:
        raise ConfigError(f"scan scores against one watchlist, not {len(config.watchlist)}; run it once for each")
    check_files(args.data, args.out, overwrite=args.overwrite)
    logs.configure("warning", "text")
    result = asyncio.run(_scan_until_stopped(args, config, load(config)))
    if isinstance(result, signal.Signals):
        print(f"scopewatch: stopped; the same command goes on with {parts_of(args.out)}", file=sys.stderr)
        return 128 + result
    print(f"{args.out}: {result.rows} rows, {result.flagged} flagged")
    if result.failed:
        print(f"scopewatch: {result.failed} rows could not be scored; see their column error", file=sys.stderr)
    return 1 if result.failed else 0


async def _scan_until_stopped(args: argparse.Namespace, config: Config, loaded: "Loaded") -> "Scanned | signal.Signals":
    from scopewatch.app.spine import offline
    from scopewatch.lifecycle.scan import Origin, scan

    (watchlist,) = loaded.watchlists
    async with offline(config, loaded) as monitor:
        return await until_signal(
            scan(
                args.data,
                args.out,
                monitor.score,
                origin=Origin.of(watchlist, loaded.engine.identity, config.max_tokens),
                indicators=[indicator.name for indicator in watchlist.indicators],
                at_once=config.at_once,
                part_rows=args.part_rows,
            )
        )


async def until_signal(work: "Coroutine[Any, Any, Scanned]") -> "Scanned | signal.Signals":
    """What the work returns, or the signal that stopped it."""
    task = asyncio.create_task(work)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return received[0]


# watchlist check


def _check(args: argparse.Namespace) -> int:
    config = settings(args)
    logs.configure("error", "text")
    reports = [_report(file, config if args.load else None) for file in args.file]
    if args.json:
        print(json.dumps(reports, ensure_ascii=False))
    else:
        for report in reports:
            _print_report(report)
    if any(report["error"] for report in reports):
        return 2
    fit = all(row["calibrated"] and not row["card_problem"] for report in reports for row in report["indicators"])
    return 1 if args.strict and not fit else 0


def _report(file: Path, load_with: Config | None) -> dict[str, Any]:
    """What is to say of one file; with a configuration, its reader and SAEs are loaded too."""
    from scopewatch.lifecycle.compare import evidence
    from scopewatch.watch.watchlist import load_watchlist

    report: dict[str, Any] = {"file": str(file), "error": "", "indicators": []}
    problems: dict[str, str] = {}
    try:
        watchlist = load_watchlist(file)
        if load_with:
            problems = _card_problems(watchlist, load_with)
    except SetupError as error:
        return report | {"error": str(error)}
    report |= {"name": watchlist.name, "digest": watchlist.digest, "loaded": load_with is not None}
    for indicator in watchlist.indicators:
        row = {
            "name": indicator.name,
            "kind": indicator.kind,
            "terms": len(indicator.features or indicator.combines),
            "threshold": indicator.threshold,
            "severity": indicator.severity,
            "calibrated": indicator.calibrated,
            "evidence": evidence(indicator.card),
            "card_problem": problems.get(indicator.name, ""),
        }
        report["indicators"].append(row)
    return report


def _card_problems(watchlist: "Watchlist", config: Config) -> dict[str, str]:
    from scopewatch.app.load import load

    # Each file alone, since two may want different readers; what does not fit is reported here, not refused.
    loaded = load(config.model_copy(update={"strict_cards": False}), [watchlist])
    return watchlist.card_problems(loaded.engine.identity)


def _print_report(report: dict[str, Any]) -> None:
    if report["error"]:
        print(report["error"])
        return
    print(f"{report['file']}: valid, {'reader and SAEs load, ' * report['loaded']}watchlist {report['name']}")
    for row in report["indicators"]:
        kind = f"{row['kind']} ({row['terms']})"
        print(f"  {row['name']}: {kind}, threshold {row['threshold']:g}, severity {row['severity']}")
        print(f"    {row['evidence']}")
        if row["card_problem"]:
            print(f"    card does not fit: {row['card_problem']}")


# watchlist diff


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


# watchlist replay


def _replay(args: argparse.Namespace) -> int:
    from scopewatch.lifecycle.replay import replay
    from scopewatch.pairs.labelled import read_texts
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    before, after = load_watchlist(args.before), load_watchlist(args.after)
    pairs = read_texts(args.data)
    # One after the other: they may have one name, or other readers.
    heard = [asyncio.run(_hear(pairs, config, watchlist)) for watchlist in (before, after)]
    result = replay(pairs, *heard)
    if args.json:
        names = {
            side: {"file": str(w.file), "name": w.name, "digest": w.digest}
            for side, w in (("before", before), ("after", after))
        }
        print(json.dumps(names | asdict(result), ensure_ascii=False))
    else:
        _print_replay(result, args.limit_shown, {pair.line: pair for pair in pairs} if args.show_text else {})
    return 1 if result.failures else 0


async def _hear(pairs: "Sequence[LabelledPair]", config: Config, watchlist: "Watchlist") -> "list[Said | str]":
    from scopewatch.app.load import load
    from scopewatch.app.spine import offline
    from scopewatch.lifecycle.replay import hear

    async with offline(config, load(config, [watchlist])) as monitor:
        return await hear(pairs, monitor.score, config.at_once)


def _print_replay(result: "Replay", limit: int, texts: "Mapping[int, LabelledPair]") -> None:
    share = result.changed
    turned = sum(change.after == "flag" for change in result.changes)
    print(f"{result.n} pairs; flagged: {result.flag_rate_before:.2%} before, {result.flag_rate_after:.2%} after")
    print(
        f"verdicts that change: {len(result.changes)} ({share.value:.2%}, 95 % interval {share.low:.2%} to "
        f"{share.high:.2%}): {turned} pass to flag, {len(result.changes) - turned} flag to pass"
    )
    print(f"\n{'flagged by':32} {'both':>8} {'only before':>12} {'only after':>12} {'neither':>8}")
    for row in result.indicators:
        there = "" if row.in_before and row.in_after else "  new" if row.in_after else "  gone"
        counts = f"{row.both:8} {row.only_before:12} {row.only_after:12} {row.neither:8}"
        print(f"{row.name:32} {counts}{there}{_rates(row.rates_before, row.rates_after)}")
    for change in result.changes[:limit]:
        decided = ", ".join(
            f"{part.indicator} {_number(part.score_before)} of {_number(part.threshold_before)}"
            f" -> {_number(part.score_after)} of {_number(part.threshold_after)}"
            for part in change.decided_by
        )
        print(f"line {change.line}, id {change.id}: {change.before} -> {change.after}: {decided}")
        if change.line in texts:
            pair = texts[change.line].pair
            print(f"    prompt: {pair.prompt!r}\n    response: {pair.response!r}")
    if (more := len(result.changes) - limit) > 0:
        print(f"and {more} more; --limit-shown shows them, --json has all")
    for failure in result.failures[:limit]:
        print(f"line {failure.line}, id {failure.id} cannot be scored: {failure.error}", file=sys.stderr)
    if result.failures:
        print(f"scopewatch: {len(result.failures)} pairs were left out, since they cannot be scored", file=sys.stderr)


def _rates(before: "Rates | None", after: "Rates | None") -> str:
    if before is None or after is None:
        return ""
    return f"  TPR {_number(before.tpr)} -> {_number(after.tpr)}, FPR {_number(before.fpr)} -> {_number(after.fpr)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
