"""`evaluate` and `activations`: the same spine on files, without a server."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch import logs
from scopewatch.cli.settings import (
    AddCommand,
    add_sae,
    add_settings,
    check_written,
    indices,
    sae_source,
    settings,
    text,
)
from scopewatch.config import ENGINE_SETTINGS
from scopewatch.errors import ConfigError, DataError
from scopewatch.files import write_text

if TYPE_CHECKING:
    from scopewatch.pairs.scored import Scored


def add(command: AddCommand) -> None:
    """Adds the commands."""
    evaluate = command("evaluate", _evaluate, "Measure an indicator on labelled pairs, in this process.")
    evaluate.add_argument("data", type=Path, nargs="+", help="JSONL with prompt, response and label (0 or 1)")
    evaluate.add_argument("--indicator", required=True, help="name of the indicator")
    company = evaluate.add_mutually_exclusive_group()
    company.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        help="labelled JSONL on which the baselines are fitted: that of the indicator's calibration compares like with "
        "like; without it they are fitted on DATA itself, by cross-fitting over groups",
    )
    company.add_argument("--no-baselines", action="store_true", help="measure the indicator alone")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.add_argument(
        "--html", type=Path, metavar="PAGE", help="write a page with figures, which needs nothing else"
    )
    evaluate.add_argument("--plot", type=Path, metavar="FIGURE", help="write ROC curves and distributions as SVG")
    add_settings(evaluate, ["watchlist", *ENGINE_SETTINGS])

    activations = command("activations", _activations, "Print what some features do on one pair, token by token.")
    activations.add_argument("--reader", required=True, help="reader directory or hub id")
    add_sae(activations)
    activations.add_argument("--features", type=indices, required=True, help="feature indices, such as 1,5")
    activations.add_argument("--prompt", type=text, default="", help="the user's message")
    activations.add_argument("--response", type=text, required=True, help="the response")
    activations.add_argument("--json", action="store_true", help="print JSON")
    add_settings(activations, ENGINE_SETTINGS)


def _evaluate(args: argparse.Namespace) -> int:
    from scopewatch.app.spine import offline
    from scopewatch.calibration import evaluation_report as findings
    from scopewatch.calibration.baselines import measure_baselines
    from scopewatch.calibration.evaluate import evaluate
    from scopewatch.pairs.labelled import labels_of, read_pairs
    from scopewatch.pairs.scored import score_pairs
    from scopewatch.report import figures
    from scopewatch.watch.watchlist import load_watchlist

    config = settings(args)
    logs.configure("warning", "text")
    if args.html or args.plot:
        figures.need_matplotlib()
    check_written(args.html, args.plot)
    if args.plot and args.plot.suffix != ".svg":
        raise DataError(f"{args.plot}: expected a name that ends in .svg")
    if args.html and args.html == args.plot:
        raise ConfigError(f"--html and --plot both name {args.html}")
    if len(config.watchlist) > 1:
        raise ConfigError(f"evaluate measures one watchlist, not {len(config.watchlist)}; run it once for each")
    watchlist = load_watchlist(config.watchlist[0])
    indicator = next((one for one in watchlist.indicators if one.name == args.indicator), None)
    if indicator is None:
        known = ", ".join(one.name for one in watchlist.indicators)
        raise DataError(f"indicator {args.indicator!r}: watchlist {watchlist.name} has {known}")
    pairs = read_pairs(*args.data)
    train = read_pairs(*args.train) if args.train else []

    async def run() -> "Scored":
        async with offline(config) as monitor:
            return await score_pairs(pairs, args.indicator, watchlist.name, monitor.score, config.at_once)

    scored = asyncio.run(run())
    baselines = None if args.no_baselines else measure_baselines(watchlist, indicator, pairs, train, config)
    found = evaluate(pairs, scored, baselines)
    labels, detectors = labels_of(pairs), {found.indicator: scored.scores} | dict(baselines.scores if baselines else {})
    if args.html:
        data = [file.name for file in args.data]
        write_text(args.html, findings.as_page(found, data, labels, detectors, indicator.card))
    if args.plot:
        write_text(args.plot, figures.plot(labels, detectors, found.threshold))
    print(json.dumps(found.document()) if args.json else findings.as_text(found))
    return 0


def _activations(args: argparse.Namespace) -> int:
    from scopewatch.engine.token_activations import token_activations

    config = settings(args)
    logs.configure("warning", "text")
    table = token_activations(
        reader=args.reader,
        sae=sae_source(args),
        features=args.features,
        prompt=args.prompt,
        response=args.response,
        config=config,
    )
    if args.json:
        print(json.dumps(table, ensure_ascii=False))
        return 0
    print(f"{'token':24} {'segment':10}" + "".join(f"{feature:>10}" for feature in table["features"]))
    for index, token in enumerate(table["tokens"]):
        values = "".join(f"{row[index]:10.3f}" for row in table["activations"])
        print(f"{token['text']!r:24} {token['segment'] or '-':10}{values}")
    return 0
