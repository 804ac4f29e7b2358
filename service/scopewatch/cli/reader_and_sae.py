"""Arguments that say which reader and which SAE a command runs."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scopewatch.cli.argument_types import text
from scopewatch.cli.parser import meaning
from scopewatch.config import cache_folder
from scopewatch.errors import ConfigError, SaeError
from scopewatch.files import expanded

if TYPE_CHECKING:
    from scopewatch.identity import FeatureKey
    from scopewatch.sources import ReaderSource, SaeSource
    from scopewatch.watch.watchlist import Watchlist

READER_HELP = "reader directory, hub id, or a name that `scopewatch reader list` shows"
SAE_HELP = "folder or file as published, owner/name/path on the hub, SAELENS_RELEASE:ID, or Neuronpedia model/source"
_NEURONPEDIA_SOURCE = re.compile(r"[^/]+/(?:[0-9]+|e)-[^/]+")


def add_reader_and_sae(parser: argparse._ActionsContainer) -> None:
    """Adds the arguments of `reader_of` and `sae_of`."""
    parser.add_argument("--reader", type=text, default="", help=READER_HELP)
    add_rendering(parser)
    parser.add_argument("--sae", type=text, default="", help=f"name in the watchlist, or {SAE_HELP}")
    add_sae_options(parser)


def add_rendering(parser: argparse._ActionsContainer) -> None:
    """Adds the argument of `rendered`."""
    parser.add_argument(
        "--rendering",
        type=text,
        default="",
        metavar="JSON",
        help="how the reader of --reader is given conversations, as under reader: in a watchlist, such as "
        '{"arguments": {"enable_thinking": false}}',
    )


def rendered(source: "ReaderSource", rendering: str) -> "ReaderSource":
    """The reader, given conversations as a text of JSON says.

    Raises:
        ConfigError: The text is not JSON, or a setting is wrong.
    """
    from pydantic import ValidationError

    from scopewatch.sources import Rendering

    if not rendering:
        return source
    try:
        return source.model_copy(update=dict(Rendering.model_validate_json(rendering)))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"--rendering: {place}{': ' if place else ''}{problem['msg']}") from None


def add_work_dir(parser: argparse.ArgumentParser) -> None:
    """Adds the argument for the folder in which pooled features are kept."""
    parser.add_argument(
        "--work-dir",
        type=Path,
        default=cache_folder("calibration"),
        help="where pooled features are kept, for the next run too",
    )


def reader_of(args: argparse.Namespace, base: "Watchlist") -> "ReaderSource":
    """The reader that the arguments name, else that of the watchlist, with its path counted from the root.

    Raises:
        ConfigError: What the arguments say of its rendering is wrong, or of a watchlist's reader.
    """
    from scopewatch.sources import ReaderSource

    if not args.reader:
        if args.rendering:
            raise ConfigError("--rendering: is said of the reader of --reader; a watchlist says it of its own")
        return base.absolute(base.reader)
    named = rendered(ReaderSource.named(args.reader), args.rendering)
    return named.model_copy(update={"path": str(Path(named.path).absolute())}) if named.path else named


def sae_of(
    args: argparse.Namespace, base: "Watchlist", features: "Sequence[FeatureKey]" = ()
) -> "tuple[str, SaeSource]":
    """The SAE that the arguments name, by itself or by its features, else that of the watchlist.

    Args:
        args: The arguments.
        base: The watchlist.
        features: The features that the arguments name, of one SAE.

    Returns:
        The SAE's name in the watchlist, empty where it has none, and the SAE.

    Raises:
        ConfigError: The watchlist has several SAEs, or not this one; or a reader was named without an SAE.
    """
    probes = {part.key.sae for entry in base.indicators if entry.kind == "probe" for part in entry.features}
    known = {name: source for name, source in base.saes.items() if name not in probes}
    if args.sae and args.sae not in known:
        return "", sae_source(args)
    if args.reader and not args.sae:
        raise ConfigError("--reader: say with --sae which SAE was made for it")
    name = args.sae or (features[0].sae if features and not args.sae_name else "")
    if name and name not in known:
        meant = meaning(name, known)
        hint = f"did you mean {meant}/{features[0].index}?" if meant else f"there are: {', '.join(sorted(known))}"
        raise ConfigError(f"--features: {base.file} has no SAE {name!r}; {hint}")
    if not name and len(known) != 1:
        raise ConfigError(f"--sae: {base.file} has {len(known)} SAEs ({', '.join(sorted(known))}); say which")
    name = name or next(iter(known))
    return name, base.absolute(known[name])


def check_named(features: "Sequence[FeatureKey]", sae_name: str) -> None:
    """Refuses features of another SAE than the one that is read.

    Raises:
        ConfigError: Says what the SAE is called.
    """
    if features and features[0].sae != sae_name:
        raise ConfigError(
            f"--features: the SAE is called {sae_name} here; did you mean {sae_name}/{features[0].index}?"
        )


def add_sae(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `sae_source`."""
    parser.add_argument("--sae", type=text, required=True, help=SAE_HELP)
    add_sae_options(parser)


def add_sae_options(parser: argparse._ActionsContainer) -> None:
    """Adds arguments for what an SAE's files may leave unsaid."""
    parser.add_argument("--revision", default="", help="branch, tag or commit on the hub")
    parser.add_argument("--hookpoint", default="", help="such as layers.20.resid_post; default: what its files say")
    parser.add_argument("--norm-factor", type=float, help="what activations are multiplied by, if its files lack it")
    parser.add_argument("--k", type=int, help="features that fire per token, if a TopK SAE's files do not say")


def sae_source(args: argparse.Namespace) -> "SaeSource":
    """The SAE that the arguments of `add_sae` name.

    Raises:
        SaeError: The arguments contradict each other.
    """
    from pydantic import ValidationError

    from scopewatch.sources import SaeSource

    where = _place(args.sae)
    try:
        options = {name: getattr(args, name) for name in ("revision", "hookpoint", "norm_factor", "k")}
        return SaeSource.model_validate({**where, **options})
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0]) if problem["loc"] else "sae"
        raise SaeError(f"--{field.replace('_', '-')}: {problem['msg'].removeprefix('Value error, ')}") from None


def _place(name: str) -> dict[str, str]:
    """The field of an SAE's source that a name of one of the forms in `SAE_HELP` means."""
    from scopewatch.releases.names import is_weights_file

    path = expanded(name)
    release, _, sae_id = name.partition(":")
    if path.exists() or name.startswith((".", "~", "/")):
        return {"path": str(path)}
    if sae_id:
        return {"release": release, "id": sae_id}
    if _NEURONPEDIA_SOURCE.fullmatch(name):
        return {"neuronpedia": name}
    if name.count("/") and not is_weights_file(name) and not Path(path.parts[0]).exists():
        return {"id": name}
    # A mistyped path, more likely than a name on the hub.
    return {"path": str(path)}
