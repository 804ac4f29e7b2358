"""`evaluate`: an indicator measured on labelled pairs."""

import argparse
import json
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.argument_types import check_written
from scopewatch.cli.data_files import DATA_HELP, add_reading, data_of, reading_of, tell
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS, Config
from scopewatch.errors import ConfigError, DataError
from scopewatch.files import write_text


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("evaluate", _run, "Measure an indicator on labelled pairs, in this process.")
    parser.add_argument("data", nargs="+", help=f"{DATA_HELP}, with label (0 or 1)")
    parser.add_argument("--indicator", required=True, help="name of the indicator")
    baselines = parser.add_mutually_exclusive_group()
    baselines.add_argument(
        "--train",
        nargs="+",
        default=[],
        help="likewise; the baselines are fitted on these pairs: those of the indicator's calibration compare like "
        "with like; without it they are fitted on DATA itself, by cross-fitting over groups",
    )
    baselines.add_argument("--no-baselines", action="store_true", help="measure the indicator alone")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--html", type=Path, metavar="PAGE", help="write a page with figures, which needs nothing else")
    parser.add_argument("--plot", type=Path, metavar="FIGURE", help="write ROC curves and distributions as SVG")
    parser.add_argument(
        "--no-texts",
        action="store_true",
        help="leave out the texts of the false positives and negatives that are shown",
    )
    add_reading(parser)
    add_settings(parser, ["watchlist", *ENGINE_SETTINGS])


def _run(args: argparse.Namespace) -> int:
    config, reading = settings(args), reading_of(args)
    data, train = data_of(args.data, reading), data_of(args.train, reading)

    from scopewatch.engine.choices import check_places, choices
    from scopewatch.report.figures import need_matplotlib
    from scopewatch.watch.watchlist import load_watchlist

    logs.configure("warning", "text")
    if args.html or args.plot:
        need_matplotlib()
    _check(args, config)
    watchlist = load_watchlist(config.watchlist[0])
    check_places(*choices([watchlist]), config)
    from scopewatch.calibration.evaluate import evaluate_indicator

    measured = evaluate_indicator(
        watchlist,
        args.indicator,
        data,
        config,
        train=train,
        baselines=not args.no_baselines,
        texts=not args.no_texts,
        reading=reading,
    )
    if args.html:
        write_text(args.html, measured.page())
    if args.plot:
        write_text(args.plot, measured.plot())
    print(json.dumps(measured.document()) if args.json else measured.text())
    of_train = tell(measured.train_tally, did="used", whose="--train: ") if train else 0
    return max(of_train, tell(measured.tally, did="scored"))


def _check(args: argparse.Namespace, config: Config) -> None:
    """Refuses arguments that would fail, or lose a file, only after all is measured."""
    check_written(args.html, args.plot)
    if args.plot and args.plot.suffix != ".svg":
        raise DataError(f"{args.plot}: expected a name that ends in .svg")
    if args.html and args.html == args.plot:
        raise ConfigError(f"--html and --plot both name {args.html}")
    if len(config.watchlist) > 1:
        raise ConfigError(f"evaluate measures one watchlist, not {len(config.watchlist)}; run it once for each")
