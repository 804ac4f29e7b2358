"""The command line: parse, call, print."""

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scopewatch
from scopewatch import logs
from scopewatch.config import Config, load_config
from scopewatch.errors import DataError, ScopewatchError, SetupError

if TYPE_CHECKING:
    from scopewatch.v1.monitor_pb2 import Limits, ScoreRequest

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one subcommand and exits: 0 done, 1 failed while running, 2 the input is wrong."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        code = args.run(args)
    except SetupError as error:
        print(f"scopewatch: {error}", file=sys.stderr)
        code = 2
    except ScopewatchError as error:
        print(f"scopewatch: {error.reason}: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scopewatch", description=scopewatch.__doc__)
    parser.add_argument("--version", action="version", version=f"scopewatch {scopewatch.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    serve = command("serve", _serve, "Serve gRPC and metrics. Every flag is also a variable SCOPEWATCH_FLAG_NAME.")
    _add_settings(serve, Config.model_fields)

    command("demo", _demo, "Run the bundled reader on a handful of pairs, end to end, and exit.")

    score = command("score", _score, "Score pairs on a running server.")
    score.add_argument("--address", default="127.0.0.1:50051", help="host:port of the server")
    score.add_argument("--timeout-s", type=float, default=30.0, help="deadline of a call")
    score.add_argument("--prompt", type=_text, default="", help="the user's message")
    score.add_argument("--response", type=_text, help="the text to judge")
    score.add_argument("--file", type=Path, help="JSONL with prompt and response, instead of --response; - for stdin")
    score.add_argument("--watchlist", default="", help="name of a loaded watchlist; empty for the default one")
    score.add_argument("--evidence", action="store_true", help="ask for the spans on which features fired")
    score.add_argument("--json", action="store_true", help="print the whole reply as JSON, one line a pair")

    evaluate = command("evaluate", _evaluate, "Measure an indicator on labelled pairs, in this process.")
    evaluate.add_argument("data", type=Path, help="JSONL with prompt, response and label (0 or 1)")
    evaluate.add_argument("--indicator", required=True, help="name of the indicator")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(evaluate, ["watchlist", *_ENGINE_SETTINGS])

    activations = command("activations", _activations, "Print what some features do on one pair, token by token.")
    activations.add_argument("--reader", required=True, help="reader directory or hub id")
    activations.add_argument("--sae", type=Path, required=True, help="Gemma Scope params.npz")
    activations.add_argument(
        "--hookpoint", default="", help="such as layers.20.resid_post; default: layer_N in the SAE's path"
    )
    activations.add_argument("--features", type=_indices, required=True, help="feature indices, such as 1,5")
    activations.add_argument("--prompt", type=_text, default="", help="the user's message")
    activations.add_argument("--response", type=_text, required=True, help="the response")
    activations.add_argument("--json", action="store_true", help="print JSON")
    _add_settings(activations, _ENGINE_SETTINGS)
    return parser


_ENGINE_SETTINGS = ["device", "dtype", "allow_download", "torch_threads", "max_tokens", "max_batch_tokens"]


def _add_settings(parser: argparse.ArgumentParser, names: "Sequence[str] | dict[str, Any]") -> None:
    """One flag per setting; absent flags leave the environment and the defaults to `load_config`."""
    group = parser.add_argument_group("settings")
    for name in names:
        setting = Config.model_fields[name]
        default = setting.default
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": f"setting_{name}"}
        if isinstance(default, bool):
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"metavar": "VALUE", "nargs": "+" if name == "watchlist" else None}
            shown = (
                "bundled"
                if name == "watchlist"
                else "empty"
                if not str(default) or "Secret" in repr(default)
                else default
            )
            options["help"] = f"{setting.description} (default: {shown})".replace("%", "%%")
        options.setdefault("help", setting.description)
        group.add_argument("--" + name.replace("_", "-"), **options)


def _settings(args: argparse.Namespace) -> Config:
    return load_config({k.removeprefix("setting_"): v for k, v in vars(args).items() if k.startswith("setting_")})


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    return argument


def _indices(text: str) -> list[int]:
    try:
        indices = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected numbers split by commas, such as 1,5") from None
    if min(indices) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a feature index is not negative")
    return indices


def _serve(args: argparse.Namespace) -> int:
    from scopewatch.server import Server

    config = _settings(args)
    logs.configure(config.log_level, config.log_format)

    async def run() -> int:
        return await Server(config).run()

    return asyncio.run(run())


def _demo(_: argparse.Namespace) -> int:
    from scopewatch.demo.tour import run

    return run()


def _score(args: argparse.Namespace) -> int:
    from scopewatch.client import Client, request, to_dict
    from scopewatch.demo.show import describe

    pairs = list(_pairs_to_score(args))
    failed = False
    with Client(args.address, timeout_s=args.timeout_s) as client:
        requests = [
            request(prompt=p, response=r, watchlist=args.watchlist, include_evidence=args.evidence) for p, r in pairs
        ]
        limits = client.info().limits
        outcomes = chain.from_iterable(client.score_batch(batch) for batch in _batches(requests, limits))
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
    if (args.response is None) == (args.file is None):
        raise DataError("give either --response or --file")
    if args.response is not None:
        return [(args.prompt, args.response)]
    try:
        text = sys.stdin.read() if str(args.file) == "-" else args.file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{args.file}: cannot be read: {error}") from None
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            pairs.append(_pair(line))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise DataError(
                f"{args.file}:{number}: expected an object with the text response and, if there is one, the text prompt"
            ) from None
    return pairs


def _pair(line: str) -> tuple[str, str]:
    row = json.loads(line)
    prompt, response = row.get("prompt", ""), row["response"]
    # Raises TypeError for what is not text, UnicodeEncodeError for lone surrogates.
    (prompt + response).encode()
    return prompt, response


def _batches(requests: "Sequence[ScoreRequest]", limits: "Limits") -> "Iterator[list[ScoreRequest]]":
    """Requests in messages that the server accepts."""
    batch: list[ScoreRequest] = []
    size = 0
    for request in requests:
        # A field's tag and length come before each.
        cost = request.ByteSize() + 8
        if batch and (len(batch) == limits.max_batch_items or size + cost > limits.max_message_bytes):
            yield batch
            batch, size = [], 0
        batch.append(request)
        size += cost
    if batch:
        yield batch


def _evaluate(args: argparse.Namespace) -> int:
    from scopewatch.calibration.data import read_pairs
    from scopewatch.calibration.evaluate import Evaluation, evaluate
    from scopewatch.server import offline

    config = _settings(args)
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

    config = _settings(args)
    logs.configure("warning", "text")
    table = token_activations(
        reader=args.reader,
        sae=args.sae,
        hookpoint=args.hookpoint,
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
