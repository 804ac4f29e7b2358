"""`contrast`: which features differ between two corpora."""

import argparse
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.settings import SAE_HELP, AddCommand, add_sae_options, add_settings, sae_source, settings, text
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scopewatch.calibration.contrast import Contrast
    from scopewatch.calibration.data import LabelledPair
    from scopewatch.engine.build import ReaderChoice
    from scopewatch.indicators import Pooling
    from scopewatch.types import EngineIdentity, FeatureKey, Label
    from scopewatch.watchlist import SaeSource, Watchlist


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
    parser.add_argument("--fdr", type=_share, default=0.05, help="false discovery rate")
    parser.add_argument("--top", type=_count, default=30, help="most features shown of each direction")
    source = parser.add_argument_group("reader and SAE (default: those of --watchlist)")
    source.add_argument("--reader", type=text, default="", help="reader directory or hub id")
    source.add_argument("--sae", type=text, default="", help=f"name in the watchlist, or {SAE_HELP}")
    add_sae_options(source)
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=Path("~/.cache/scopewatch/calibration"),
        help="where pooled features are kept, for the next run too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page, which needs nothing else")
    add_settings(parser, ["watchlist", "labels", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    from scopewatch.types import LABEL_NOTE

    config = settings(args)
    logs.configure("warning", "text")
    if args.html and not args.html.parent.is_dir():
        raise DataError(f"{args.html}: there is no folder {args.html.parent}")
    a, b, names = _corpora(args)
    found = _contrast(args, config, a, b)
    if args.html:
        _write_page(args.html, found, names)
    if args.json:
        files = dict(zip(("a", "b"), names, strict=True))
        print(json.dumps({"files": files} | asdict(found) | {"label_note": LABEL_NOTE}, ensure_ascii=False))
        return 0
    from scopewatch.calibration.contrast_page import as_text

    print(as_text(found, *names))
    return 0


def _corpora(args: argparse.Namespace) -> "tuple[Sequence[LabelledPair], Sequence[LabelledPair], tuple[str, str]]":
    """A, B, and what they are called."""
    from scopewatch.calibration.corpora import partners, swapped
    from scopewatch.calibration.data import read_texts

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
    from scopewatch.calibration.contrast import Wanted, contrast
    from scopewatch.engine.dictionary import build_dictionary
    from scopewatch.labels import open_labels
    from scopewatch.types import Segment
    from scopewatch.watchlist import load_watchlist

    pooling = _pooling(args.pooling)
    watchlists = [load_watchlist(file) for file in config.watchlist]
    reader, name, sae = _engine(args, watchlists)
    with open_labels(Path(config.labels)) if config.labels else nullcontext() as index:

        def labels_of(identity: "EngineIdentity") -> "Mapping[FeatureKey, Label]":
            own = {} if args.reader else _own_labels(watchlists)
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
    from scopewatch.calibration.store import POOLINGS

    known = {pooling.kind: pooling for pooling in POOLINGS}
    if word not in known:
        raise ConfigError(f"--pooling: expected one of {', '.join(known)}, not {word!r}")
    return known[word]


def _engine(args: argparse.Namespace, watchlists: "Sequence[Watchlist]") -> "tuple[ReaderChoice, str, SaeSource]":
    """The reader, and the SAE with its name in the watchlist, empty where it has none."""
    from scopewatch.engine.build import ReaderChoice, choices

    if args.reader:
        if not args.sae:
            raise ConfigError("--reader: say with --sae which SAE was made for it")
        return ReaderChoice.named(args.reader), "", sae_source(args)
    reader, saes = choices(watchlists)
    probes = {
        part.key.sae
        for watchlist in watchlists
        for indicator in watchlist.indicators
        if indicator.kind == "probe"
        for part in indicator.features
    }
    known = {sae.name: sae.source for sae in saes if sae.name not in probes}
    if args.sae and args.sae not in known:
        return reader, "", sae_source(args)
    if not args.sae and len(known) != 1:
        raise ConfigError(f"--sae: the watchlist has {len(known)} SAEs ({', '.join(known) or 'none'}); say which")
    name = args.sae or next(iter(known))
    return reader, name, known[name]


def _own_labels(watchlists: "Sequence[Watchlist]") -> "dict[FeatureKey, Label]":
    from scopewatch.types import Label

    return {
        feature.key: Label(feature.label, "watchlist")
        for watchlist in watchlists
        for indicator in watchlist.indicators
        for feature in indicator.features
        if feature.label
    }


def _write_page(file: Path, found: "Contrast", names: tuple[str, str]) -> None:
    from scopewatch.calibration.contrast_page import as_page

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


def _share(argument: str) -> float:
    """Argument type: between 0 and 1."""
    try:
        share = float(argument)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a share between 0 and 1, such as 0.05")
    return share


def _count(argument: str) -> int:
    """Argument type: at least 1."""
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number of at least 1")
    return int(argument)
