"""`calibrate`: an indicator, its threshold and its card, from labelled pairs or from benign traffic."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.argument_types import check_folder, check_written, features, share, text, valid_name
from scopewatch.cli.data_files import DATA_HELP, add_reading, data_of, reading_of, tell
from scopewatch.cli.reader_and_sae import add_reader_and_sae, add_work_dir, check_named, reader_of, sae_of
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import BUNDLED_WATCHLIST, ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError
from scopewatch.files import expanded, write_text

if TYPE_CHECKING:
    from scopewatch.calibration.outcome import Outcome
    from scopewatch.calibration.request import Request
    from scopewatch.watch.watchlist import Watchlist

_MOST_TERMS = 512
_FEATURES, _ACTIVATIONS = ("--kind features",), ("--kind features", "--kind probe")
_MADE_OF = {
    "lexicon": ("--kind words",),
    **dict.fromkeys(("features", "terms", "poolings", "across_sources"), _FEATURES),
    **dict.fromkeys(
        ("reader", "rendering", "sae", "revision", "hookpoint", "norm_factor", "k", "sae_name"), _ACTIVATIONS
    ),
}
"""Of what an indicator may be made for an option to say something of it; others take the reader of --watchlist."""


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command(
        "calibrate",
        _run,
        "Make an indicator from labelled pairs, or set its threshold by benign traffic; write it with its evidence.",
    )
    parser.add_argument("data", nargs="+", help=f"{DATA_HELP}, with label (0 or 1) and group")
    parser.add_argument("--indicator", type=valid_name, required=True, help="name of the indicator")
    parser.add_argument("--out", type=Path, required=True, help="watchlist to write, or to write it into")
    parser.add_argument("--max-fpr", type=share, default=0.01, help="highest false-positive rate wanted")
    parser.add_argument("--confidence", type=share, default=0.95, help="of the bound on that rate")
    _add_detector(parser.add_argument_group("what it is made of"))
    _add_writing(parser.add_argument_group("how it is written"))
    source = parser.add_argument_group("reader and SAE (default: those of --out if it is there, else of --watchlist)")
    source.add_argument("--watchlist", type=Path, help="whose reader, SAE and indicators to use (default: bundled)")
    add_reader_and_sae(source)
    source.add_argument("--sae-name", type=valid_name, help="name of the SAE in the watchlist that is written")
    add_work_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, help="write a report as one HTML page")
    add_reading(parser)
    add_settings(parser, ENGINE_SETTINGS)


def _add_detector(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--kind",
        choices=("features", "probe", "words"),
        default="features",
        help="SAE features, a dense probe, or a bag of words, which needs no activation",
    )
    group.add_argument(
        "--lexicon",
        type=_lexicon,
        metavar="NAME|WORD,...",
        help="with --kind words: the share of words in this list, in place of a bag",
    )
    group.add_argument(
        "--features",
        type=features,
        default=(),
        metavar="SAE/N,...",
        help="make it of exactly these features of one SAE, by its name in the watchlist, such as sae/7957,sae/12",
    )
    group.add_argument(
        "--terms", type=_terms, default=None, metavar="auto|N", help="weighted features; auto by cross-validation"
    )
    group.add_argument(
        "--poolings",
        type=_names,
        default=[],
        metavar="KIND,...",
        help="consider these poolings of features alone, if any are named; mean, fraction_active, last and "
        "sentence_end do not grow with the length, and carry over from short texts to long ones",
    )
    group.add_argument(
        "--weights",
        choices=("free", "nonnegative", "equal"),
        default="free",
        help="of the features; equal: of what --combine names, each on the scale of its standard deviation",
    )
    group.add_argument(
        "--across-sources",
        action="store_true",
        help="choose what carries over: cross-validation leaves out whole sources (the rows' `source`, or the file)",
    )
    group.add_argument(
        "--combine",
        type=_names,
        default=[],
        metavar="NAME,...",
        help="other indicators of --watchlist, and signals of the reader: mean_logprob, mean_entropy, "
        "lowest_sentence_logprob, highest_sentence_entropy, surprising_assertion",
    )
    group.add_argument(
        "--benign",
        action="store_true",
        help="pairs are benign and not labelled: set the threshold of an indicator of --watchlist",
    )
    group.add_argument("--flip-labels", action="store_true", help="the indicator is to fire where the label is 0")
    group.add_argument(
        "--held-out", type=share, default=0.5, help="share of the groups that measure and are not fitted"
    )
    group.add_argument(
        "--by-length",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="let the threshold go with the number of tokens, where benign pairs support it",
    )
    group.add_argument(
        "--fragility",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="score up to 400 held-out pairs again with style, cue words, prompts and the reader's precision changed",
    )
    group.add_argument(
        "--force", action="store_true", help="write it even if a bag of words is better or the bound cannot be kept"
    )


def _add_writing(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--segment", choices=("response", "prompt", "history"), default="response", help="what it reads")
    group.add_argument("--severity", choices=("info", "low", "medium", "high"), default="medium", help="of a flag")
    group.add_argument("--label", type=text, default="", help="what it means, for people")
    group.add_argument(
        "--shows", choices=("hedging", "knowledge"), default="", help="what it shows of a sentence in an explanation"
    )
    group.add_argument("--name", type=valid_name, help="of the watchlist, if it is made; default: the file's")
    group.add_argument(
        "--describe",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="label features with words of the data on which they are strongest; show words on the page",
    )


def _run(args: argparse.Namespace) -> int:
    from scopewatch.watch.splice import write_indicator
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    _check_options(args)
    data = data_of(args.data, reading_of(args))
    _check_places(args, data)
    name = _watchlist_name(args)
    base = load_watchlist(args.watchlist or (args.out if args.out.exists() else BUNDLED_WATCHLIST))
    request = _request(args, data, base, name)
    outcome = _calibrate(args, request, config)
    page = outcome.page() if args.html else ""
    written = write_indicator(args.out, outcome.indicator, outcome.reader, outcome.saes, name=name)
    if args.html:
        write_text(args.html, page)
    if args.json:
        print(json.dumps(outcome.document() | {"watchlist": str(args.out), "watchlist_digest": written.digest}))
    else:
        print("\n".join([*outcome.lines(), f"{args.out}: indicator {args.indicator} written"]))
    return tell(outcome.tally, did="used")


def _check_options(args: argparse.Namespace) -> None:
    """Refuses an option that says nothing of what is made, which would be passed over in silence."""
    if args.benign and args.combine:
        raise ConfigError("--benign sets the threshold of an indicator that is there; leave --combine out")
    if (args.weights == "equal") != bool(args.combine) and args.weights != "free":
        raise ConfigError("--weights: equal is for --combine, nonnegative for features")
    if args.features and args.terms:
        raise ConfigError("--terms: is for features that the data choose; leave it out with --features")
    made = "--benign" if args.benign else "--combine" if args.combine else f"--kind {args.kind}"
    for option, kinds in _MADE_OF.items():
        if getattr(args, option) and made not in kinds:
            told = f"--{option.replace('_', '-')}: is for {' and '.join(kinds)}; leave it out with {made}"
            raise ConfigError(told + (", which takes the reader of --watchlist" if kinds == _ACTIVATIONS else ""))


def _request(args: argparse.Namespace, data: list[Path], base: "Watchlist", watchlist_name: str) -> "Request":
    from scopewatch.calibration.request import Request
    from scopewatch.calibration.wanted import Wanted
    from scopewatch.pairs.kept_poolings import pooling_named

    options = (
        "features",
        "max_fpr",
        "confidence",
        "held_out",
        "terms",
        "weights",
        "across_sources",
        "by_length",
        "fragility",
        "force",
    )
    wanted = Wanted(
        kind="combination" if args.combine else args.kind,
        poolings=tuple(pooling_named(kind, "--poolings") for kind in args.poolings),
        **{option: getattr(args, option) for option in options},
    )
    return Request(
        indicator=args.indicator,
        data=tuple(data),
        wanted=wanted,
        base=base,
        out=args.out,
        watchlist_name=watchlist_name,
        segment=args.segment,
        severity=args.severity,
        label=args.label,
        shows=args.shows,
        flip_labels=args.flip_labels,
        reading=reading_of(args),
    )


def _calibrate(args: argparse.Namespace, request: "Request", config: Config) -> "Outcome":
    if args.benign:
        from scopewatch.calibration.benign import set_benign_threshold

        return set_benign_threshold(request, config, describe=args.describe)
    from scopewatch.engine.choices import SaeChoice, check_places, choices

    if args.combine:
        check_places(*choices([request.base]), config)
        from scopewatch.calibration.combination import calibrate_combination

        return calibrate_combination(request, args.combine, config)
    if args.kind == "words":
        check_places(choices([request.base])[0], [], config)
        from scopewatch.calibration.words_detector import calibrate_words

        return calibrate_words(request, args.lexicon, config, describe=args.describe)
    reader = reader_of(args, request.base)
    known_as, sae = sae_of(args, request.base, args.features)
    sae_name = args.sae_name or known_as or "sae"
    check_named(args.features, sae_name)
    check_places(reader, [SaeChoice(known_as, sae)], config)
    from scopewatch.calibration.detector import Sources, calibrate_detector

    sources = Sources(reader, sae, sae_name)
    return calibrate_detector(request, sources, config, work_dir=expanded(args.work_dir), describe=args.describe)


def _check_places(args: argparse.Namespace, data: list[Path]) -> None:
    """Refuses files to write that could not be written, or whose writing would lose data."""
    places = [args.out.resolve(), *([args.html.resolve()] if args.html else [])]
    for place in places:
        if place in {file.resolve() for file in data} or places.count(place) > 1:
            raise ConfigError(f"{place}: is named twice, to be written; give another --out or --html")
    check_written(args.html)
    check_folder(args.out.parent)
    check_folder(args.work_dir.expanduser())


def _watchlist_name(args: argparse.Namespace) -> str:
    """The name of a watchlist that is made: the one given, else that of the file."""
    try:
        name: str = args.name or valid_name(args.out.stem)
    except argparse.ArgumentTypeError as problem:
        raise ConfigError(f"--out: {problem}, which names the watchlist; give --name") from None
    return name


def _terms(argument: str) -> int | None:
    """Argument type: `auto`, or a number of terms."""
    if argument == "auto":
        return None
    if not argument.isdecimal() or not 1 <= int(argument) <= _MOST_TERMS:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected auto or a number from 1 to {_MOST_TERMS}")
    return int(argument)


def _lexicon(argument: str) -> str | tuple[str, ...]:
    """Argument type: the name of a lexicon, or words and phrases split by commas."""
    names = _names(argument)
    return tuple(names) if "," in argument else names[0]


def _names(argument: str) -> list[str]:
    """Argument type: names split by commas."""
    names = dict.fromkeys(name.strip() for name in text(argument).split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("expected names split by commas")
    return list(names)
