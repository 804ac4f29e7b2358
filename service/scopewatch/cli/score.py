"""`score`: pairs scored on a running server."""

import argparse
import json
import sys
from itertools import chain
from pathlib import Path

from scopewatch.cli.argument_types import said, text
from scopewatch.cli.settings import AddCommand
from scopewatch.errors import DataError, ScopewatchError


def add(command: AddCommand) -> None:
    """Adds the command."""
    score = command("score", _run, "Score pairs on a running server.")
    score.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server, or unix:/path")
    score.add_argument("--tls-ca", type=Path, help="PEM file of those who sign the server's certificate; makes it TLS")
    score.add_argument("--tls-cert", type=Path, help="PEM file of a certificate to show to the server")
    score.add_argument("--tls-key", type=Path, help="PEM file of its private key")
    score.add_argument("--token-file", type=Path, help="file with the bearer token that says who asks")
    score.add_argument("--insecure", action="store_true", help="send the token in plaintext to another machine")
    score.add_argument("--timeout-s", type=float, default=30.0, help="deadline of a call")
    score.add_argument("--prompt", type=text, default="", help="the user's message")
    score.add_argument("--response", type=said, help="the text to judge")
    score.add_argument("--file", type=Path, help="JSONL with prompt and response, instead of --response; - for stdin")
    score.add_argument("--watchlist", default="", help="name of a loaded watchlist; empty for the default one")
    score.add_argument("--evidence", action="store_true", help="ask for the spans on which features fired")
    score.add_argument("--json", action="store_true", help="print the whole reply as JSON, one line a pair")


def _run(args: argparse.Namespace) -> int:
    from scopewatch.client import Client, in_batches, request, to_dict
    from scopewatch.demo.show import describe

    pairs = list(_pairs_to_score(args))
    failed = False
    with Client(
        args.address,
        timeout_s=args.timeout_s,
        tls_ca=args.tls_ca,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        token=_read(args.token_file).strip() if args.token_file else None,
        insecure=args.insecure,
    ) as client:
        requests = [
            request(prompt=p, response=r, watchlist=args.watchlist, include_evidence=args.evidence) for p, r in pairs
        ]
        batches = in_batches(requests, client.info().limits)
        outcomes = chain.from_iterable(client.score_batch(batch) for batch in batches)
        for (prompt, response), outcome in zip(pairs, outcomes, strict=True):
            if isinstance(outcome, ScopewatchError):
                failed = True
                print(json.dumps({"error": str(outcome)}) if args.json else f"failed: {outcome}")
            elif args.json:
                print(json.dumps(to_dict(outcome), ensure_ascii=False))
            else:
                print(describe(outcome, prompt, response))
    return 1 if failed else 0


def _pairs_to_score(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The prompts and responses that the arguments give."""
    if (args.response is None) == (args.file is None):
        raise DataError("give either --response or --file")
    if args.response is not None:
        return [(args.prompt, args.response)]
    text = _read(args.file)
    return [_pair(args.file, number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


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
