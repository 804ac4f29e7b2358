"""`contrast`: which features differ between two corpora."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.argument_types import check_folder, check_written, count, share, text
from scopewatch.cli.data_files import add_reading, reading_of, tell
from scopewatch.cli.reader_and_sae import add_reader_and_sae, add_work_dir, reader_of, sae_of
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError
from scopewatch.files import expanded, write_text

if TYPE_CHECKING:
    from scopewatch.contrast.corpora import Corpora
    from scopewatch.contrast.results import Contrast


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("contrast", _run, "List the features that differ between two corpora. Labels do not matter.")
    parser.add_argument(
        "a", help="a file, - for standard input, or a quoted pattern: JSONL (.jsonl, .jsonl.gz), CSV or Parquet"
    )
    parser.add_argument("b", nargs="?", help="likewise; left out with --swap")
    _add_comparison(parser)
    source = parser.add_argument_group("reader and SAE (default: those of --watchlist)")
    add_reader_and_sae(source)
    add_work_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page, which needs nothing else")
    add_reading(parser)
    add_settings(parser, ["watchlist", "labels", *ENGINE_SETTINGS])


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--segment", choices=("response", "prompt"), default="response", help="what is compared")
    parser.add_argument("--pooling", type=text, default="max", help="how a feature's activations become one number")
    parser.add_argument(
        "--paired", action="store_true", help="pairs of A and B belong together by id, or by line where they have none"
    )
    parser.add_argument(
        "--swap",
        type=_swaps,
        metavar="OLD=NEW,...",
        help="make B of A by swapping whole words from left to right, such as he=she,his=her; only pairs in which one "
        "stands are compared, as --paired",
    )
    parser.add_argument("--fdr", type=share, default=0.05, help="false discovery rate")
    parser.add_argument("--top", type=count, default=30, help="most features shown of each direction")


def _run(args: argparse.Namespace) -> int:
    config = settings(args)
    logs.configure("warning", "text")
    check_written(args.html)
    check_folder(args.work_dir.expanduser())
    corpora = _corpora(args)
    found = _contrast(args, config, corpora)
    _show(args, found, (corpora.name_a, corpora.name_b))
    return tell(found.tally, did="used")


def _show(args: argparse.Namespace, found: "Contrast", names: tuple[str, str]) -> None:
    """Writes the page that the arguments ask for, and prints."""
    from scopewatch.contrast.page import as_page, as_text
    from scopewatch.verdicts import LABEL_NOTE

    if args.html:
        write_text(args.html, as_page(found, *names))
    if args.json:
        files = dict(zip(("a", "b"), names, strict=True))
        print(json.dumps({"files": files} | asdict(found) | {"label_note": LABEL_NOTE}, ensure_ascii=False))
    else:
        print(as_text(found, *names))


def _corpora(args: argparse.Namespace) -> "Corpora":
    from scopewatch.contrast.corpora import read_corpora, swapped_corpora

    if bool(args.swap) == bool(args.b):
        raise ConfigError("give a second file, or --swap to make it of the first, not both")
    reading = reading_of(args)
    if args.swap:
        return swapped_corpora(args.a, args.swap, reading=reading)
    return read_corpora(args.a, args.b, paired=args.paired, reading=reading)


def _contrast(args: argparse.Namespace, config: Config, corpora: "Corpora") -> "Contrast":
    from scopewatch.engine.choices import SaeChoice, check_places
    from scopewatch.types import Segment
    from scopewatch.watch.labels import open_labels
    from scopewatch.watch.watchlist import load_watchlist

    if len(config.watchlist) > 1:
        raise ConfigError("--watchlist: give one, whose reader and SAE are to read")
    watchlist = load_watchlist(config.watchlist[0])
    reader = reader_of(args, watchlist)
    name, sae = sae_of(args, watchlist)
    check_places(reader, [SaeChoice(name, sae)], config)
    if config.labels:
        with open_labels(Path(config.labels)):
            pass
    from scopewatch.contrast.recipe import contrast_corpora, own_labels
    from scopewatch.contrast.results import Wanted
    from scopewatch.pairs.kept_poolings import pooling_named

    wanted = Wanted(
        sae=name,
        segment=Segment[args.segment.upper()],
        pooling=pooling_named(args.pooling, "--pooling"),
        paired=bool(args.paired or args.swap),
        fdr=args.fdr,
        top=args.top,
    )
    labels = {} if args.reader else own_labels(watchlist)
    return contrast_corpora(corpora, reader, sae, wanted, config, work_dir=expanded(args.work_dir), labels=labels)


def _swaps(argument: str) -> dict[str, str]:
    """Argument type: words and what they become."""
    swaps: dict[str, str] = {}
    for swap in text(argument).split(","):
        old, _, new = (part.strip() for part in swap.partition("="))
        if not old or not new or "=" in new:
            raise argparse.ArgumentTypeError(f"{swap!r}: expected a word and what it becomes, such as he=she")
        if old.lower() in {known.lower() for known in swaps}:
            raise argparse.ArgumentTypeError(f"{old!r} stands twice")
        swaps[old] = new
    return swaps
