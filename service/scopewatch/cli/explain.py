"""`explain`: why pairs got their verdicts, by this process or by a running server."""

import argparse
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.argument_types import count, said, text
from scopewatch.cli.connecting import add_server, connect
from scopewatch.cli.data_files import DATA_HELP, add_columns, columns_of, data_of
from scopewatch.cli.explanation_output import Output, add_output
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.cli.terminal import remark
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import DataError, EngineDied, EngineError, InvalidRequest, NotKept
from scopewatch.explanation import MOST_TOP, Wants

if TYPE_CHECKING:
    from scopewatch.lifecycle.chosen import ChosenPair
    from scopewatch.lifecycle.explaining import Explain

_SETTINGS = ("labels", *ENGINE_SETTINGS)
_OF_SERVER = ("tls_ca", "tls_cert", "tls_key", "token_file", "insecure")
_TIMEOUT_S = 120.0
_FLAGGED = 10


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("explain", _run, "Tell why pairs get their verdicts, and how far to trust that.")
    _add_pairs(parser.add_argument_group("pairs (one, or a few)"))
    add_output(parser)
    parser.add_argument("--ablate", action="store_true", help="measure what the flagged features do to the reader")
    parser.add_argument("--delete", action="store_true", help="look for the fewest words that the verdict hangs on")
    parser.add_argument(
        "--top", type=_top, default=Wants().top, help="features of the whole dictionary told of each segment and token"
    )
    add_server(parser, address=None, timeout_s=_TIMEOUT_S, without="; without one, this process explains")
    parser.add_argument(
        "--watchlist",
        nargs="+",
        metavar="VALUE",
        dest="setting_watchlist",
        default=argparse.SUPPRESS,
        help="watchlist file (default: bundled); with --address the name of one that the server has loaded",
    )
    add_columns(parser)
    add_settings(parser, _SETTINGS)


def _add_pairs(group: "argparse._ArgumentGroup") -> None:
    again = "; may be given again"
    group.add_argument("data", nargs="?", help=f"with --row or --id: {DATA_HELP}")
    group.add_argument("--prompt", type=text, help="the user's message")
    group.add_argument("--response", type=said, help="the response")
    group.add_argument("--scan", type=Path, metavar="RESULT", help="what scan wrote; it names the file of each pair")
    group.add_argument("--row", type=count, action="append", help=f"row of the file, counted from 1{again}")
    group.add_argument("--id", type=text, action="append", help=f"id of a row of the file{again}")
    group.add_argument(
        "--flagged",
        type=count,
        nargs="?",
        const=_FLAGGED,
        metavar="N",
        help="the first N, or 10, that the scan flagged",
    )
    kept = f"scored pair of which the server keeps the text{again}"
    group.add_argument("--kept", type=text, action="append", metavar="REQUEST_ID", help=kept)


def _run(args: argparse.Namespace) -> int:
    if mistake := _mistake(args):
        raise DataError(mistake)
    pairs = _pairs(args)
    out = Output(args, [pair.job.request_id for pair in pairs])
    failed = False
    with _explaining(args) as explain, closing(out):
        for number, pair in enumerate(pairs):
            try:
                explanation = explain(pair.job)
            except EngineDied:
                raise
            except (InvalidRequest, NotKept, EngineError) as error:
                failed = True
                remark(f"failed: {pair.place}: {error}")
                continue
            out.write(number, explanation)
            if pair.scanned not in {"", explanation.verdict}:
                by = f"by {explanation.provenance.watchlist} it is {explanation.verdict}"
                remark(f"{pair.place}: the scan said {pair.scanned}; {by}")
    return 1 if failed else 0


def _pairs(args: argparse.Namespace) -> "Sequence[ChosenPair]":
    """The pairs that the arguments choose; those that a server keeps by their ids alone."""
    from scopewatch.lifecycle.chosen import Choice, ChosenPair, chosen_of_files, chosen_of_scan
    from scopewatch.pairs.data_files import Reading
    from scopewatch.types import Pair, ScoreJob

    if args.kept:
        return [ChosenPair(ScoreJob(Pair("", ""), "", kept), kept) for kept in args.kept]
    if args.response is not None:
        return [ChosenPair(ScoreJob(Pair(args.prompt or "", args.response), "", str(uuid.uuid4())), "--response")]
    columns = columns_of(args)
    choice = Choice(frozenset(args.row or ()), frozenset(args.id or ()), args.flagged or 0)
    if args.scan:
        return chosen_of_scan(args.scan, choice, columns)
    return chosen_of_files(data_of([args.data], Reading(columns)), choice, columns)


@contextmanager
def _explaining(args: argparse.Namespace) -> "Iterator[Explain]":
    """What explains pairs: a server, if one is named, or this process."""
    from scopewatch.lifecycle.explaining import explaining_by, explaining_here

    wants = Wants(args.top, args.ablate, args.delete)
    if args.address:
        (name,) = getattr(args, "setting_watchlist", [""])
        with connect(args) as client:
            yield explaining_by(client, wants, watchlist=name, kept=bool(args.kept))
        return
    config = settings(args)
    logs.configure("warning", "text")
    with explaining_here(config, wants) as explain:
        yield explain


def _mistake(args: argparse.Namespace) -> str:
    """What is wrong with the arguments taken together; empty if nothing is."""
    given = {
        "--response": args.response is not None,
        "DATA": args.data is not None,
        "--scan": args.scan is not None,
        "--kept": args.kept is not None,
    }
    sources = [name for name, there in given.items() if there]
    by_row, of_file = bool(args.row or args.id), given["DATA"] or given["--scan"]
    elsewhere = [f"--{name.replace('_', '-')}" for name in _OF_SERVER if getattr(args, name)]
    elsewhere += ["--timeout-s"] if args.timeout_s != _TIMEOUT_S else []
    here = [f"--{name.replace('_', '-')}" for name in _SETTINGS if hasattr(args, f"setting_{name}")]
    columns = [f"--{part}-column" for part in columns_of(args).renamed]
    named = getattr(args, "setting_watchlist", [])
    rules = {
        "say what to explain: --response, DATA with --row or --id, --scan RESULT, or --kept REQUEST_ID": not sources,
        f"give one of {' and '.join(sources)}": len(sources) > 1,
        "--prompt: belongs to --response": args.prompt is not None and args.response is None,
        "--row and --id: belong to DATA or --scan": by_row and not of_file,
        "--flagged: belongs to --scan": args.flagged is not None and not given["--scan"],
        "DATA: say which of its rows with --row or --id": given["DATA"] and not by_row,
        "--scan: say which rows with --row, --id or --flagged": given["--scan"] and not by_row and not args.flagged,
        "--flagged: not together with --row and --id": by_row and args.flagged is not None,
        "--kept: the text is kept by a server; name it with --address": given["--kept"] and not args.address,
        f"{', '.join(elsewhere)}: says how a server is asked; name it with --address": elsewhere and not args.address,
        f"{', '.join(here)}: the server of --address has its own": here and args.address,
        "--watchlist: a kept pair is explained by the watchlist that judged it": named and given["--kept"],
        f"--watchlist: a pair is explained by one watchlist, not {len(named)}": len(named) > 1,
        f"{', '.join(columns)}: belongs to DATA or --scan": columns and not of_file,
        "--reference-data: its texts are shown on the page; give --html": args.reference_data and not args.html,
    }
    return next((said for said, wrong in rules.items() if wrong), "")


def _top(argument: str) -> int:
    """Argument type: how many features."""
    if not argument.isdecimal() or not 1 <= int(argument) <= MOST_TOP:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number from 1 to {MOST_TOP}")
    return int(argument)
