"""The configuration, from flags, the environment and a file, in this order. A secret may also come from a file of its
own, which `SCOPEWATCH_<NAME>_FILE`, a flag or the config file names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from scopewatch.config.config_file import CONFIG, of_file
from scopewatch.config.environment import of_environment
from scopewatch.config.given import Given
from scopewatch.config.settings import SECRET_FILES, Config
from scopewatch.errors import ConfigError
from scopewatch.files import expanded


@dataclass(frozen=True, slots=True)
class Effective:
    """The configuration, and where each of its settings comes from."""

    config: Config
    sources: Mapping[str, str]
    """The variable, the flag, or the file and the line, by the setting's name; a default has none."""


def as_flag(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def load_config(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    called: Callable[[str], str] = as_flag,
) -> Config:
    """Builds the configuration; arguments and errors are those of `effective`."""
    return effective(flags, environ, called=called).config


def effective(
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    called: Callable[[str], str] = as_flag,
) -> Effective:
    """Builds the configuration, with the source of each setting.

    Args:
        flags: Values from the command line, by the setting's name; they win over the environment, and that over the
            file that one of them names as `config`.
        environ: The environment; the process's own by default.
        called: What the user calls a flag.

    Raises:
        ConfigError: Names every wrong setting and its source.
    """
    given = of_environment(environ).below(_of_flags(flags or {}, called))
    if file := given.values.pop(CONFIG, ""):
        given = of_file(str(file), given.sources[CONFIG]).below(given)
    _read_secrets(given)
    config = _checked(given)
    return Effective(config, {name: source for name, source in given.sources.items() if name in Config.model_fields})


def _of_flags(flags: Mapping[str, Any], called: Callable[[str], str]) -> Given:
    given = Given()
    for name, value in flags.items():
        given.add(name, value, called(name))
    return given


def _read_secrets(given: Given) -> None:
    """Puts secrets in the place of the files that hold them."""
    for named, name in SECRET_FILES.items():
        if named not in given.values:
            continue
        file, source = given.values.pop(named), given.sources[named]
        if name in given.values:
            given.wrong.append(f"{given.sources[name]} and {source}: give one of them")
            continue
        given.sources[name] = source
        try:
            given.values[name] = _secret_in(file)
        except ValueError as error:
            given.wrong.append(f"{source}: {file}: {error}")


def _secret_in(file: str) -> str:
    """What a file holds, without the newline at its end."""
    try:
        secret = expanded(file).read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise ValueError("is no text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    if not secret:
        raise ValueError("is empty, put the secret there")
    return secret


def _checked(given: Given) -> Config:
    """The configuration, if nothing of it is wrong."""
    wrong = list(given.wrong)
    config = None
    try:
        config = Config.model_validate(given.values)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            told = given.sources.get(name, name) or "settings"
            wrong.append(f"{told}: {problem['msg'].removeprefix('Value error, ')}")
    if wrong or config is None:
        raise ConfigError("; ".join(wrong))
    return config
