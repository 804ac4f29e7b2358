"""The settings of `config.py` as flags of a command."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from scopewatch.config import CONFIG, FILE_LISTS, SECRET_FILES, Config, Effective, effective


class AddCommand(Protocol):
    """Adds a subcommand: its name, what runs it (arguments in, exit code out), and one sentence of help."""

    def __call__(self, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser: ...


def add_settings(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds a flag for each setting named; one that is not given leaves it to the environment and the defaults."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--config",
        help="file in TOML with settings, below the environment and the flags; `scopewatch settings` prints one",
        default=argparse.SUPPRESS,
        dest=f"setting_{CONFIG}",
        metavar="FILE",
    )
    for name in names:
        setting = Config.model_fields[name]
        default = setting.default
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": f"setting_{name}"}
        if isinstance(default, bool):
            options |= {"action": argparse.BooleanOptionalAction}
        else:
            options |= {"metavar": "VALUE", "nargs": "+" if name in FILE_LISTS else None}
            shown = "bundled" if name == "watchlist" else _shown(default)
            options["help"] = f"{setting.description} (default: {shown})".replace("%", "%%")
        options.setdefault("help", setting.description)
        flag = "--" + name.replace("_", "-")
        if f"{name}_file" in SECRET_FILES:
            options["help"] += f"; every user of this machine sees what stands here: use {flag}-file"
            group.add_argument(
                f"{flag}-file",
                help=f"file that holds {name}, in place of {flag}",
                default=argparse.SUPPRESS,
                dest=f"setting_{name}_file",
                metavar="FILE",
            )
        group.add_argument(flag, **options)


def settings(args: argparse.Namespace, *, serves: bool = False) -> Config:
    """The configuration that flags, environment and config file give.

    Args:
        args: The command's arguments.
        serves: Whether the command listens on the configured addresses. To another they mean nothing, and it is not
            refused for them: a container's environment has those of `serve`.

    Raises:
        ConfigError: Settings are wrong; every one of them is named.
    """
    unused = {} if serves else {name: Config.model_fields[name].default for name in ("grpc_address", "metrics_address")}
    return effective(unused | _flags(args)).config


def effective_settings(args: argparse.Namespace) -> Effective:
    """The configuration with the source of each setting; errors are those of `settings`."""
    return effective(_flags(args))


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    return {k.removeprefix("setting_"): v for k, v in vars(args).items() if k.startswith("setting_")}


def _shown(default: Any) -> Any:
    """A default as the help shows it: no secret, and a word for nothing."""
    return "empty" if not str(default) or default == () or "Secret" in repr(default) else default
