"""`features`: what the features of an SAE are said to mean."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.argument_types import count, text
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.errors import ConfigError

if TYPE_CHECKING:
    from scopewatch.watch.labels import LabelledFeature


def add(command: AddCommand) -> None:
    """Adds the command."""
    group = command("features", _run, "Read Neuronpedia's labels of features into a local index, search and show them.")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, does: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=does, description=does, formatter_class=group.formatter_class)
        add_settings(parser, ["labels"])
        return parser

    imports = action(
        "import", "Read Neuronpedia export files into the index; a file that is wrong leaves no trace in it."
    )
    imports.add_argument("file", type=Path, nargs="+", help="explanations or features, batch-N.jsonl.gz or .jsonl")

    search = action("search", "Find features by the words of their labels, best match first.")
    _add_search(search)
    show = action("show", "Show what the index knows of one feature.")
    show.add_argument("feature", type=text, help="such as gemma-2-2b/20-gemmascope-res-16k/1234")
    for parser in (search, show):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _add_search(search: argparse.ArgumentParser) -> None:
    search.add_argument(
        "word", type=text, nargs="+", help="words, or beginnings of words, all of which a label must have"
    )
    search.add_argument("--source", type=text, default="", help="such as gemma-2-2b/20-gemmascope-res-16k; empty: all")
    search.add_argument("--limit", type=count, default=20, help="most features shown")


def _run(args: argparse.Namespace) -> int:
    from scopewatch.verdicts import LABEL_NOTE
    from scopewatch.watch.labels import import_file, open_labels

    labels = settings(args).labels
    if not labels:
        raise ConfigError("no label index: give its file with --labels, or in the variable SCOPEWATCH_LABELS")
    index = Path(labels)
    if args.action == "import":
        for file in args.file:
            done = import_file(index, file)
            print(f"{file}: {done.explanations} explanations, {done.new_explanations} new; {done.features} features")
        return 0
    with open_labels(index) as known:
        show = args.action == "show"
        found = [known.show(args.feature)] if show else known.search(" ".join(args.word), args.source, args.limit)
    if args.json:
        print(json.dumps({"features": [asdict(feature) for feature in found], "note": LABEL_NOTE}, ensure_ascii=False))
    else:
        _print(found)
        print(f"\n{LABEL_NOTE}" if found else "no label in the index has all of these words")
    return 0


def _print(found: "Sequence[LabelledFeature]") -> None:
    for feature in found:
        numbers = f"maxActApprox {_number(feature.max_act_approx)}  frac_nonzero {_number(feature.frac_nonzero)}"
        print(f"{feature.feature}  {numbers}")
        for label in feature.labels:
            print(f"    {label.text}  ({label.source})")


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
