"""`activations`: what some features do on one pair, token by token."""

import argparse
import json

from scopewatch import logs
from scopewatch.cli.argument_types import indices, said, text
from scopewatch.cli.reader_and_sae import READER_HELP, add_rendering, add_sae, rendered, sae_source
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.config import ENGINE_SETTINGS


def add(command: AddCommand) -> None:
    """Adds the command."""
    parser = command("activations", _run, "Print what some features do on one pair, token by token.")
    parser.add_argument("--reader", required=True, help=READER_HELP)
    add_rendering(parser)
    add_sae(parser)
    parser.add_argument("--features", type=indices, required=True, help="feature indices, such as 1,5")
    parser.add_argument("--prompt", type=text, default="", help="the user's message")
    parser.add_argument("--response", type=said, required=True, help="the response")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_settings(parser, ENGINE_SETTINGS)


def _run(args: argparse.Namespace) -> int:
    from scopewatch.engine.choices import SaeChoice, check_places
    from scopewatch.sources import ReaderSource

    config = settings(args)
    logs.configure("warning", "text")
    sae, reader = sae_source(args), rendered(ReaderSource.named(args.reader), args.rendering)
    check_places(reader, [SaeChoice("sae", sae)], config)
    from scopewatch.engine.token_activations import token_activations

    table = token_activations(
        reader=reader,
        sae=sae,
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
