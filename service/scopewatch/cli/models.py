"""`models`: the weights that watchlists name by hub id, fetched beforehand and checked."""

import argparse
import sys
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.settings import AddCommand, add_settings, settings


def add(command: AddCommand) -> None:
    """Adds the commands."""
    group = command(
        "models",
        lambda args: args.run_action(args),
        "Fetch the weights that watchlists name by hub id, and check them.",
    )
    actions = group.add_subparsers(required=True, metavar="ACTION")
    for name, run, text in (("fetch", _fetch, _FETCH), ("check", _check, _CHECK)):
        parser = actions.add_parser(name, help=text, description=text, formatter_class=group.formatter_class)
        parser.add_argument("watchlist", type=Path, nargs="+", metavar="WATCHLIST", help="watchlist file")
        parser.add_argument(
            "--sums",
            type=Path,
            metavar="FILE",
            help="digests that every file has to have, as `models fetch` prints them",
        )
        add_settings(parser, ["reader_dir"])
        parser.set_defaults(run_action=run)


_FETCH = (
    "Download what is missing of reader and SAEs into the Hugging Face cache, hold every file against its SHA-256, and "
    "print the digests. A file that is wrong is fetched again; a second run downloads nothing."
)
_CHECK = (
    "Hold what was fetched against its SHA-256, without the network; exit code 0 only if every file is what it was."
)


def _fetch(args: argparse.Namespace) -> int:
    from scopewatch.acceptance.sums import as_text, read_sums
    from scopewatch.acceptance.weights import fetch
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("info", "text")
    pinned = read_sums(args.sums) if args.sums else None
    sys.stdout.write(as_text(fetch([load_watchlist(file) for file in args.watchlist], config, pinned)))
    return 0


def _check(args: argparse.Namespace) -> int:
    from scopewatch.acceptance.sums import read_sums
    from scopewatch.acceptance.weights import check
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    pinned = read_sums(args.sums) if args.sums else None
    sums = check([load_watchlist(file) for file in args.watchlist], config, pinned)
    print(f"{len(sums)} files, each as it was {'recorded' if pinned is None else 'pinned'}")
    return 0
