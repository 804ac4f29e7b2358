"""`sae`: what released SAEs are, and whether they work on a reader."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scopewatch import logs
from scopewatch.cli.argument_types import check_read, check_written, indices, text
from scopewatch.cli.reader_and_sae import READER_HELP, SAE_HELP, add_sae, add_sae_options, sae_source
from scopewatch.cli.settings import AddCommand, add_settings, settings
from scopewatch.errors import SaeError

if TYPE_CHECKING:
    from scopewatch.acceptance.verification import Verification


def add(command: AddCommand) -> None:
    """Adds the commands."""
    group = command("sae", lambda args: args.run_action(args), "Inspect, check and pack released SAEs.")
    actions = group.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=text, description=text, formatter_class=group.formatter_class)
        parser.set_defaults(run_action=run)
        return parser

    _add_inspect(action)
    _add_verify(action)
    _add_pack(action)


def _add_inspect(command: AddCommand) -> None:
    inspect = command("inspect", _inspect, "Say what an SAE is: format, architecture, hookpoint, sizes, digests.")
    inspect.add_argument("sae", type=text, metavar="PATH_OR_NAME", help=SAE_HELP)
    add_sae_options(inspect)
    inspect.add_argument("--json", action="store_true", help="print JSON")
    add_settings(inspect, ["allow_download"])


def _inspect(args: argparse.Namespace) -> int:
    from scopewatch.acceptance.inspection import inspect
    from scopewatch.releases.find import find_sae

    source, config = sae_source(args), settings(args)
    logs.configure("warning", "text")
    found = find_sae(source, allow_download=config.allow_download)
    inspection = inspect(found)
    told = asdict(inspection) | {"neuronpedia": found.neuronpedia}
    told["hookpoint"] = _canonical(found.hookpoint or inspection.hookpoint)
    told["hookpoint_out"] = _canonical(inspection.hookpoint_out)
    if told["hookpoint"]:
        told["places"] = ()
    if args.json:
        print(json.dumps(_plain(told), ensure_ascii=False))
        return 0
    told |= {"hookpoint": told["hookpoint"] or _unsaid(inspection.places), "places": ()}
    for name, value in told.items():
        parts = [f"{key} {part}" for key, part in value.items()] if isinstance(value, dict) else [value]
        for part in parts:
            if part not in (None, "", ()):
                print(f"{name:16} {part}")
    return 0


def _unsaid(places: Sequence[str]) -> str:
    """What stands in place of a hookpoint that the files do not say."""
    return "not said by its files: say it as --hookpoint" + (f", one of {', '.join(places)}" if places else "")


def _canonical(hookpoint: str) -> str:
    """A hookpoint in scopewatch's spelling; as published where it is of no supported reader."""
    from scopewatch.reader.hookpoints import parse_hookpoint

    try:
        return str(parse_hookpoint(hookpoint)) if hookpoint else ""
    except SaeError:
        return hookpoint


def _add_pack(command: AddCommand) -> None:
    pack = command("pack", _pack, "Write the watched part of an SAE into a small file that can be named in its place.")
    pack.add_argument("sae", type=text, metavar="PATH_OR_NAME", help=SAE_HELP)
    add_sae_options(pack)
    pack.add_argument("--features", type=indices, required=True, help="feature indices, such as 1,5")
    pack.add_argument("--out", type=Path, required=True, help="the pack, such as res.pack.safetensors")
    add_settings(pack, ["allow_download"])


def _pack(args: argparse.Namespace) -> int:
    from scopewatch.releases.find import find_sae
    from scopewatch.sae.pack import write_pack
    from scopewatch.sae.watched import load_watched

    source, config = sae_source(args), settings(args)
    logs.configure("warning", "text")
    check_written(args.out)
    found = find_sae(source, allow_download=config.allow_download)
    watched = load_watched(found, args.features)
    write_pack(replace(watched, hookpoint=found.hookpoint or watched.hookpoint), args.out)
    print(f"{args.out}: {len(watched.features)} features of {source.name}")
    return 0


def _add_verify(command: AddCommand) -> None:
    verify = command(
        "verify",
        _verify,
        "Check that an SAE gives its publisher's numbers on a reader, and if not, say which mistake they look like; "
        "exit code 0 only if it does.",
    )
    verify.add_argument("--reader", type=text, required=True, help=READER_HELP)
    add_sae(verify)
    verify.add_argument("--text", type=Path, help="ordinary prose in UTF-8, instead of the bundled sample")
    verify.add_argument("--max-sample-tokens", type=_tokens, default=5000, help="most tokens measured on")
    verify.add_argument("--golden", type=Path, help="activations export of Neuronpedia, batch-N.jsonl.gz")
    verify.add_argument("--tolerance", type=_share, default=0.05, help="deviation from --golden that is accepted")
    verify.add_argument("--json", action="store_true", help="print JSON")
    add_settings(verify, ["device", "dtype", "allow_download", "reader_dir"])


def _verify(args: argparse.Namespace) -> int:
    from scopewatch.engine.choices import SaeChoice, check_places
    from scopewatch.sources import ReaderSource

    config, source = settings(args), sae_source(args)
    logs.configure("warning", "text")
    check_read(args.text, args.golden)
    check_places(ReaderSource.named(args.reader), [SaeChoice("sae", source)], config)
    from scopewatch.acceptance.golden import Golden
    from scopewatch.acceptance.verify import verify

    outcome = verify(
        reader=args.reader,
        source=source,
        config=config,
        text=args.text,
        max_tokens=args.max_sample_tokens,
        golden=Golden(args.golden, args.tolerance) if args.golden else None,
    )
    if args.json:
        print(json.dumps(_plain(asdict(outcome)), ensure_ascii=False))
    else:
        _print(outcome)
    return 0 if outcome.verdict == "ok" else 1


def _print(outcome: "Verification") -> None:
    measured, geometry = outcome.measured, outcome.geometry
    rows = {
        "reader": f"{outcome.reader.name}, {outcome.reader.dtype} on {outcome.reader.device}",
        "SAE": f"{outcome.sae}, {outcome.format} {outcome.architecture}, {outcome.d_in} to {outcome.d_sae}",
        "reads": outcome.hookpoint,
        "writes": outcome.hookpoint_out,
        "text": f"{outcome.text}, {measured.tokens} tokens",
        "L0": f"{measured.l0:.2f}, declared {_shown(outcome.declared_l0)}, ratio {_shown(outcome.l0_ratio)}",
        "FVU": f"{measured.fvu:.4f}",
        "never fired": f"{measured.never_fired:.1%} of the features",
        "norms of W_dec": f"{geometry.norm_min:.4g} to {geometry.norm_max:.4g}, median {geometry.norm_median:.4g}"
        + (", promised 1" if outcome.unit_decoder else ""),
        "cosine": f"{_shown(geometry.cosine)} between encoder and decoder",
    }
    for name, value in rows.items():
        print(f"{name:15} {value}")
    for feature in outcome.golden.features if outcome.golden else ():
        print(
            f"{f'golden {feature.index}':15} deviates by {feature.deviation:.2%}, correlation "
            f"{feature.correlation:.4f}, on {feature.tokens} tokens"
        )
    print(f"{outcome.verdict}: {outcome.finding}")


def _tokens(argument: str) -> int:
    """Argument type: enough tokens to measure anything on."""
    if not argument.isdecimal() or int(argument) < 256:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number of at least 256")
    return int(argument)


def _share(argument: str) -> float:
    """Argument type: between 0 and 1."""
    try:
        share = float(argument)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number between 0 and 1")
    return share


def _shown(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.4g}"


def _plain(value: Any) -> Any:
    """What JSON can hold: null for infinity and NaN."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
