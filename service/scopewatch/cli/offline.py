"""`evaluate` and `activations`: the same spine on files, without a server."""

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from scopewatch import logs
from scopewatch.cli.settings import (
    AddCommand,
    add_sae,
    add_settings,
    indices,
    sae_source,
    settings,
    text,
)
from scopewatch.config import ENGINE_SETTINGS


def add(command: AddCommand) -> None:
    """Adds the commands."""
    evaluate = command("evaluate", _evaluate, "Measure an indicator on labelled pairs, in this process.")
    evaluate.add_argument("data", type=Path, help="JSONL with prompt, response and label (0 or 1)")
    evaluate.add_argument("--indicator", required=True, help="name of the indicator")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
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
    from scopewatch.calibration.data import read_pairs
    from scopewatch.calibration.evaluate import Evaluation, evaluate
    from scopewatch.server import offline

    config = settings(args)
    logs.configure("warning", "text")
    pairs = read_pairs(args.data)

    async def run() -> Evaluation:
        async with offline(config) as monitor:
            return await evaluate(pairs, args.indicator, "", monitor.score)

    result = asdict(asyncio.run(run()))
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:12} {value:.4f}" if isinstance(value, float) else f"{name:12} {value}")
    return 0


def _activations(args: argparse.Namespace) -> int:
    from scopewatch.engine.inspect import token_activations

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
