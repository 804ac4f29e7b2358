"""`score`: pairs scored on a running server."""

import argparse
import json
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scopewatch.cli.argument_types import said, text, text_of
from scopewatch.cli.connecting import add_server, connect
from scopewatch.cli.settings import AddCommand
from scopewatch.errors import DataError, ScopewatchError

if TYPE_CHECKING:
    from scopewatch.client import Client
    from scopewatch.explanation import Explanation


def add(command: AddCommand) -> None:
    """Adds the command."""
    score = command("score", _run, "Score pairs on a running server.")
    add_server(score, address="127.0.0.1:50051", timeout_s=30.0)
    score.add_argument("--prompt", type=text, default="", help="the user's message")
    score.add_argument("--response", type=said, help="the text to judge")
    score.add_argument("--file", type=Path, help="JSONL with prompt and response, instead of --response; - for stdin")
    score.add_argument("--watchlist", default="", help="name of a loaded watchlist; empty for the default one")
    score.add_argument("--evidence", action="store_true", help="ask for the spans on which features fired")
    score.add_argument("--explain", action="store_true", help="tell why, too; needs the role explain")
    score.add_argument("--json", action="store_true", help="print the whole reply as JSON, one line a pair")


def _run(args: argparse.Namespace) -> int:
    from scopewatch.client import in_batches, request, to_dict
    from scopewatch.demo.show import describe

    pairs = list(_pairs_to_score(args))
    failed = False
    with connect(args) as client:
        requests = [
            request(prompt=p, response=r, watchlist=args.watchlist, include_evidence=args.evidence) for p, r in pairs
        ]
        batches = in_batches(requests, client.info().limits)
        outcomes = chain.from_iterable(client.score_batch(batch) for batch in batches)
        for (prompt, response), outcome in zip(pairs, outcomes, strict=True):
            if isinstance(outcome, ScopewatchError):
                failed = True
                print(json.dumps({"error": str(outcome)}) if args.json else f"failed: {outcome}")
                continue
            explanation = None
            if args.explain:
                asked = {"request_id": outcome.request_id, "watchlist": args.watchlist}
                explanation = _explained(client, prompt=prompt, response=response, **asked)
                failed |= isinstance(explanation, ScopewatchError)
            if args.json:
                print(json.dumps(to_dict(outcome) | _as_json(explanation), ensure_ascii=False))
            else:
                print(describe(outcome, prompt, response), *_as_text(explanation), sep="\n")
    return 1 if failed else 0


def _explained(client: "Client", **pair: str) -> "Explanation | ScopewatchError":
    """Why a pair got its verdict, or why that is not told."""
    try:
        return client.explain(**pair)  # type: ignore[arg-type]
    except ScopewatchError as error:
        return error


def _as_json(explanation: "Explanation | ScopewatchError | None") -> dict[str, Any]:
    if isinstance(explanation, ScopewatchError):
        return {"explanation_error": str(explanation)}
    return {"explanation": explanation.model_dump(mode="json")} if explanation else {}


def _as_text(explanation: "Explanation | ScopewatchError | None") -> list[str]:
    from scopewatch.report.explanation_text import explanation_text

    if isinstance(explanation, ScopewatchError):
        return [f"  not explained: {explanation}"]
    return [explanation_text(explanation)] if explanation else []


def _pairs_to_score(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The prompts and responses that the arguments give."""
    if (args.response is None) == (args.file is None):
        raise DataError("give either --response or --file")
    if args.response is not None:
        return [(args.prompt, args.response)]
    text = text_of(args.file)
    return [_pair(args.file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _pair(file: Path, number: int, line: str) -> tuple[str, str]:
    """The prompt and the response on a line of JSONL."""
    try:
        row = json.loads(line)
        prompt, response = row.get("prompt", ""), row["response"]
        # A value that is no text raises a TypeError, and a lone surrogate a UnicodeEncodeError.
        (prompt + response).encode()
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DataError(
            f"{file}:{number}: expected an object with the text response and, if there is one, the text prompt"
        ) from None
    return prompt, response
