"""`watchlist check | diff | replay | reference | measure`: what comes after a watchlist's calibration."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from scopewatch import logs
from scopewatch.cli.argument_types import check_written, count, share
from scopewatch.cli.data_files import DATA_HELP, add_reading, data_of, reading_of, tell
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError

if TYPE_CHECKING:
    from scopewatch.pairs.data_files import Reading
    from scopewatch.watch.watchlist import Watchlist


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command(
        "watchlist",
        _run,
        "Check watchlists. Compare two of them, by what they say and on stored pairs. Keep where benign pairs lie. "
        "Measure cards in another dtype.",
    )
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
    reference = action(
        "reference",
        "Keep on the cards of a watchlist where benign pairs lie, so that a pair can be told how unusual it is.",
    )
    _add_reference(reference)
    measure = action(
        "measure",
        "Measure the cards of a watchlist, on their own pairs, in another --dtype than they were made in, so that they "
        "speak for it too.",
    )
    _add_measure(measure)


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("data", nargs="+", help=DATA_HELP)
    replay.add_argument("--limit-shown", type=count, default=20, help="most changed verdicts shown; JSON has all")
    replay.add_argument("--show-text", action="store_true", help="show the pairs too, not only their lines and ids")
    add_reading(replay)
    add_settings(replay, ENGINE_SETTINGS)


def _add_reference(reference: argparse.ArgumentParser) -> None:
    _add_card_pairs(reference, "what calibrate read, or benign pairs, with or without label and group")
    reference.add_argument("--most", type=count, default=2000, help="most pairs that are scored, one of each group")
    reference.add_argument(
        "--logprob",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="load the reader's head where an indicator shows hedging, to keep how well it expects sentences",
    )
    add_reading(reference)
    add_settings(reference, ENGINE_SETTINGS)


def _add_measure(measure: argparse.ArgumentParser) -> None:
    _add_card_pairs(measure, "the files that the cards name, which are known by their SHA-256")
    add_reading(measure)
    add_settings(measure, ENGINE_SETTINGS)


def _add_card_pairs(parser: argparse.ArgumentParser, data: str) -> None:
    """Adds what says whose cards get what is made of which pairs; `data` says what the files hold."""
    parser.add_argument("file", type=Path, metavar="watchlist", help="watchlist file")
    parser.add_argument("data", nargs="+", help=f"{DATA_HELP}: {data}")
    parser.add_argument(
        "--indicator",
        action="append",
        default=[],
        metavar="NAME",
        help="may be repeated; default: all that have a card",
    )
    parser.add_argument("--out", type=Path, help="file to write, beside the watchlist (default: the watchlist)")
    parser.add_argument("--flip-labels", action="store_true", help="pairs of label 1 are the benign ones")
    parser.add_argument(
        "--held-out", type=share, default=0.5, help="as calibrate was given it, where the data are those it read"
    )


def _run(args: argparse.Namespace) -> int:
    actions = {"check": _check, "diff": _diff, "replay": _replay, "reference": _reference, "measure": _measure}
    return actions[args.action](args)


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
    from scopewatch.watch.watchlist import load_watchlist

    config, reading = settings(args), reading_of(args)
    logs.configure("warning", "text")
    before, after = load_watchlist(args.before), load_watchlist(args.after)
    data = data_of(args.data, reading)
    for watchlist in (before, after):
        check_places(*choices([watchlist]), config)

    from scopewatch.lifecycle.replay import hear_watchlist, replay
    from scopewatch.lifecycle.replay_text import replay_lines
    from scopewatch.pairs.data_files import read_texts
    from scopewatch.pairs.labelled import Labels

    read = read_texts(*data, labels=Labels.IF_THERE, reading=reading)
    # One after the other, since they may have one name or different readers.
    result = replay(read.pairs, *(hear_watchlist(read.pairs, watchlist, config) for watchlist in (before, after)))
    tally = read.tally.without(reading.checked(failure.as_left_out) for failure in result.failures)
    if args.json:
        names = {
            side: {"file": str(w.file), "name": w.name, "digest": w.digest}
            for side, w in (("before", before), ("after", after))
        }
        print(json.dumps(names | asdict(result) | {"rows": tally.read, "left_out": tally.reasons}, ensure_ascii=False))
    else:
        texts = {pair.place: pair for pair in read.pairs} if args.show_text else {}
        print("\n".join(replay_lines(result, args.limit_shown, texts)))
    return tell(tally, did="scored")


def _reference(args: argparse.Namespace) -> int:
    logs.configure("warning", "text")
    watchlist, data, reading, config, out = _cards_and_pairs(args)

    from scopewatch.calibration.add_references import make_references
    from scopewatch.calibration.benign_pairs import Choice
    from scopewatch.watch.splice import write_references

    write_references(watchlist, {}, out, rehearse=True)
    choice = Choice(benign=int(args.flip_labels), held_out=args.held_out, most=args.most, reading=reading)
    made = make_references(watchlist, args.indicator, data, config, choice=choice, logprob=args.logprob)
    written = write_references(watchlist, made.references, out)
    if args.json:
        references = {name: one.model_dump(mode="json") for name, one in made.references.items()}
        print(json.dumps({"watchlist": str(out), "watchlist_digest": written.digest, "references": references}))
    else:
        print("\n".join([*made.lines(), f"{out}: written"]))
    return max(tell(tally, did="used", whose=f"{name}: ") for name, tally in made.tallies.items())


def _measure(args: argparse.Namespace) -> int:
    logs.configure("error", "text")
    watchlist, data, reading, config, out = _cards_and_pairs(args)

    from scopewatch.calibration.also_measured import measure_also
    from scopewatch.calibration.benign_pairs import Choice
    from scopewatch.watch.splice import write_also_measured

    write_also_measured(watchlist, {}, out, rehearse=True)
    choice = Choice(benign=int(args.flip_labels), held_out=args.held_out, reading=reading)
    made = measure_also(watchlist, args.indicator, data, config, choice=choice)
    written = write_also_measured(watchlist, made.figures, out)
    if args.json:
        figures = {name: one.model_dump(mode="json") for name, one in made.figures.items()}
        print(json.dumps({"watchlist": str(out), "watchlist_digest": written.digest, "also_measured": figures}))
    else:
        print("\n".join([*made.lines(), f"{out}: written"]))
    return 0  # What is left out of the files was no part of the cards either, or all would have been refused.


class _CardsAndPairs(NamedTuple):
    """What figures for cards are made of, and the file they are written to."""

    watchlist: "Watchlist"
    data: list[Path]
    reading: "Reading"
    config: Config
    out: Path


def _cards_and_pairs(args: argparse.Namespace) -> _CardsAndPairs:
    """Reads a watchlist, and refuses what can be known to be wrong before torch is imported."""
    from scopewatch.engine.choices import check_places, choices
    from scopewatch.watch.watchlist import load_watchlist

    config, reading = settings(args), reading_of(args)
    watchlist = load_watchlist(args.file)
    data = data_of(args.data, reading)
    out = args.out or watchlist.file
    _check_out(out, watchlist)
    check_places(*choices([watchlist]), config)
    return _CardsAndPairs(watchlist, data, reading, config, out)


def _check_out(out: Path, watchlist: "Watchlist") -> None:
    """Refuses a file that could not be written, that would be lost, or from which paths would lead elsewhere."""
    check_written(out)
    if out.resolve() == watchlist.file.resolve():
        return
    if out.exists():
        raise ConfigError(f"--out: {out} is there already; name another file")
    if out.parent.resolve() != watchlist.file.parent.resolve() and watchlist.has_relative_paths:
        raise ConfigError(
            f"--out: {watchlist.file} names files by paths that count from its folder; name a file in that folder"
        )
