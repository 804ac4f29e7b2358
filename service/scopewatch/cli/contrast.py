"""`contrast`: which features differ between two corpora."""

import argparse
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.engine import add_reader_and_sae, add_work_dir, reader_of, sae_of
from scopewatch.cli.settings import AddCommand, add_settings, check_written, count, settings, share, text
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scopewatch.contrast.contrast import Contrast
    from scopewatch.pairs.labelled import LabelledPair
    from scopewatch.types import EngineIdentity, FeatureKey, Label
    from scopewatch.watch.indicators import Pooling
    from scopewatch.watch.watchlist import Watchlist


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("contrast", _run, "List the features that differ between two corpora. Labels do not matter.")
    parser.add_argument("a", type=Path, help="JSONL with response and, if there are, prompt, history, group, id")
    parser.add_argument("b", type=Path, nargs="?", help="likewise; left out with --swap")
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
    source = parser.add_argument_group("reader and SAE (default: those of --watchlist)")
    add_reader_and_sae(source)
    add_work_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page, which needs nothing else")
    add_settings(parser, ["watchlist", "labels", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.types import LABEL_NOTE

    config = settings(args)
    logs.configure("warning", "text")
    check_written(args.html)
    a, b, names = _corpora(args)
    found = _contrast(args, config, a, b)
    if args.html:
        _write_page(args.html, found, names)
    if args.json:
        files = dict(zip(("a", "b"), names, strict=True))
        print(json.dumps({"files": files} | asdict(found) | {"label_note": LABEL_NOTE}, ensure_ascii=False))
        return 0
    from scopewatch.contrast.page import as_text

    print(as_text(found, *names))
    return 0


def _corpora(args: argparse.Namespace) -> "tuple[Sequence[LabelledPair], Sequence[LabelledPair], tuple[str, str]]":
    """A, B, and what they are called."""
    from scopewatch.contrast.corpora import partners, swapped
    from scopewatch.pairs.labelled import read_texts

    if bool(args.swap) == bool(args.b):
        raise ConfigError("give a second file, or --swap to make it of the first, not both")
    a = read_texts(args.a)
    if args.swap:
        words = ", ".join(f"{old}={new}" for old, new in args.swap.items())
        return *swapped(a, args.swap), (args.a.name, f"{args.a.name} with {words}")
    b = read_texts(args.b)
    return a, partners(a, b) if args.paired else b, (args.a.name, args.b.name)


def _contrast(
    args: argparse.Namespace, config: Config, a: "Sequence[LabelledPair]", b: "Sequence[LabelledPair]"
) -> "Contrast":
    from scopewatch.contrast.contrast import Wanted, contrast
    from scopewatch.engine.dictionary import build_dictionary
    from scopewatch.types import Segment
    from scopewatch.watch.labels import open_labels
    from scopewatch.watch.watchlist import load_watchlist

    pooling = _pooling(args.pooling)
    if len(config.watchlist) > 1:
        raise ConfigError("--watchlist: give one, whose reader and SAE are to read")
    watchlist = load_watchlist(config.watchlist[0])
    reader = reader_of(args, watchlist)
    name, sae = sae_of(args, watchlist)
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:

        def labels_of(identity: "EngineIdentity") -> "Mapping[FeatureKey, Label]":
            own = {} if args.reader else _own_labels(watchlist)
            return {**(index.labels_of(identity) if index else {}), **own}

        dictionary = build_dictionary(reader, sae, config)
        wanted = Wanted(
            sae=name or dictionary.identity.saes[0].neuronpedia or "sae",
            segment=Segment[args.segment.upper()],
            pooling=pooling,
            paired=bool(args.paired or args.swap),
            fdr=args.fdr,
            top=args.top,
        )
        return contrast(a, b, dictionary, wanted, folder=args.work_dir.expanduser(), labels_of=labels_of)


def _pooling(word: str) -> "Pooling":
    from scopewatch.pairs.pooled import POOLINGS

    known = {pooling.kind: pooling for pooling in POOLINGS}
    if word not in known:
        raise ConfigError(f"--pooling: expected one of {', '.join(known)}, not {word!r}")
    return known[word]


def _own_labels(watchlist: "Watchlist") -> "dict[FeatureKey, Label]":
    from scopewatch.types import Label

    return {
        feature.key: Label(feature.label, "watchlist")
        for indicator in watchlist.indicators
        for feature in indicator.features
        if feature.label
    }


def _write_page(file: Path, found: "Contrast", names: tuple[str, str]) -> None:
    from scopewatch.contrast.page import as_page

    try:
        file.write_text(as_page(found, *names), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}") from None


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
