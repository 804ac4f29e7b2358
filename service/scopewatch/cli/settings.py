"""What several commands share: settings as flags, and argument types."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from scopewatch.config import Config, load_config

ENGINE_SETTINGS = ["device", "dtype", "allow_download", "torch_threads", "max_tokens", "max_batch_tokens"]


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


def text(argument: str) -> str:
    """Argument type: valid text."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("not valid UTF-8") from None
    return argument


def indices(argument: str) -> list[int]:
    """Argument type: feature indices, such as 1,5."""
    try:
        found = [int(part) for part in argument.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{argument!r}: expected numbers split by commas, such as 1,5") from None
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"{argument!r}: a feature index is not negative")
    return found
