"""What several commands share: settings as flags, and argument types."""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from scopewatch.config import Config, load_config
from scopewatch.errors import DataError, SaeError

if TYPE_CHECKING:
    from scopewatch.sources import SaeSource

SAE_HELP = "folder or file as published, owner/name/path on the hub, SAELENS_RELEASE:ID, or Neuronpedia model/source"
_NEURONPEDIA_SOURCE = re.compile(r"[^/]+/(?:[0-9]+|e)-[^/]+")


class AddCommand(Protocol):
    """Adds a subcommand: its name, what runs it (arguments in, exit code out), and one sentence of help."""

    def __call__(self, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser: ...


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
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


def settings(args: argparse.Namespace) -> Config:
    """The configuration that flags and environment give.

    Raises:
        ConfigError: Names every wrong setting.
    """
    return load_config({k.removeprefix("setting_"): v for k, v in vars(args).items() if k.startswith("setting_")})


def check_written(*files: Path | None) -> None:
    """Refuses, before any work is done, what could not be written after it.

    Raises:
        DataError: Names the file.
    """
    for file in filter(None, files):
        if not file.parent.is_dir():
            raise DataError(f"{file}: there is no folder {file.parent}")
        if file.is_dir():
            raise DataError(f"{file}: is a folder; name a file to write")


def text(argument: str) -> str:
    """Argument type: valid text."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    return argument


def count(argument: str) -> int:
    """Argument type: at least 1."""
    if not argument.isdecimal() or int(argument) < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a number of at least 1")
    return int(argument)


def share(argument: str) -> float:
    """Argument type: between 0 and 1."""
    try:
        share = float(argument)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected a share between 0 and 1, such as 0.01")
    return share


def indices(argument: str) -> list[int]:
    """Argument type: feature indices, such as 1,5."""
    try:
        found = [int(part) for part in argument.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected numbers split by commas, such as 1,5") from None
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{argument!r}: a feature index is not negative")
    return found


def add_sae(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which SAE."""
    parser.add_argument("--sae", type=text, required=True, help=SAE_HELP)
    add_sae_options(parser)


def add_sae_options(parser: argparse._ActionsContainer) -> None:
    """What an SAE's files may leave unsaid."""
    parser.add_argument("--revision", default="", help="branch, tag or commit on the hub")
    parser.add_argument("--hookpoint", default="", help="such as layers.20.resid_post; default: what its files say")
    parser.add_argument("--norm-factor", type=float, help="what activations are multiplied by, if its files lack it")
    parser.add_argument("--k", type=int, help="features that fire per token, if a TopK SAE's files do not say")


def sae_source(args: argparse.Namespace) -> "SaeSource":
    """The SAE that the arguments of `add_sae` name.

    Raises:
        SaeError: They contradict each other.
    """
    from pydantic import ValidationError

    from scopewatch.sources import SaeSource

    name: str = args.sae
    path = Path(name).expanduser()
    release, _, sae_id = name.partition(":")
    if path.exists() or name.startswith((".", "~", "/")):
        where = {"path": str(path)}
    elif sae_id:
        where = {"release": release, "id": sae_id}
    elif _NEURONPEDIA_SOURCE.fullmatch(name):
        where = {"neuronpedia": name}
    elif name.count("/") > 1 and not Path(path.parts[0]).exists():
        where = {"id": name}
    else:
        # A mistyped path, more likely than a name on the hub.
        where = {"path": str(path)}
    try:
        options = {name: getattr(args, name) for name in ("revision", "hookpoint", "norm_factor", "k")}
        return SaeSource(**where, **options)
    except ValidationError as error:
        problem = error.errors()[0]
        field = str(problem["loc"][0]) if problem["loc"] else "sae"
        raise SaeError(f"--{field.replace('_', '-')}: {problem['msg'].removeprefix('Value error, ')}") from None
