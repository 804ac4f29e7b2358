"""`watch`: what a running server has flagged lately, and where its page is."""

import argparse
import sys
from pathlib import Path

from scopewatch.cli.argument_types import text_of
from scopewatch.cli.settings import AddCommand


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("watch", _run, "List what a running server flagged lately. Its page opens the explanations.")
    parser.add_argument("--address", default="127.0.0.1:9465", help="host:port that the server has as --watch-address")
    parser.add_argument("--token-file", type=Path, help="file with the token of a caller that has the role explain")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def _run(args: argparse.Namespace) -> int:
    import webbrowser

    token = text_of(args.token_file).strip() if args.token_file else None
    from scopewatch.lifecycle.recent_flags import recent_flags
    from scopewatch.report.flags_text import flags_text

    print(flags_text(recent_flags(args.address, token)))
    url = f"http://{args.address}/"
    print(url)
    if args.open and not webbrowser.open(url):
        print("scopewatch: no browser could be started; open the page above", file=sys.stderr)
    return 0
