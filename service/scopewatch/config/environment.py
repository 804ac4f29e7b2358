"""Settings from flags and from the environment. A misspelt variable is refused, not ignored; those that Kubernetes
makes of Services are no settings. A secret may also come from a file, which `SCOPEWATCH_<NAME>_FILE` or a flag names.
"""

import difflib
import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from scopewatch.config.settings import FILE_LISTS, SECRET_FILES, Config
from scopewatch.errors import ConfigError
from scopewatch.files import expanded

ENV_PREFIX = "SCOPEWATCH_"
_SERVICE_LINK = re.compile(
    r"""(\w+_)?(
        SERVICE_HOST=IP
        | SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+
        | PORT(_[0-9]+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://(IP|\[IP\]):[0-9]+
        | PORT_[0-9]+_(TCP|UDP|SCTP)_(PROTO=(tcp|udp|sctp) | PORT=[0-9]+ | ADDR=IP)
    )""".replace("IP", "[0-9a-f.:]+"),
    re.VERBOSE,
)
"""What follows the prefix in the variables that Kubernetes gives a pod for a Service named `scopewatch` or
`scopewatch-…`, with their values (kubernetes.io/docs/concepts/services-networking/service/#environment-variables)."""


def load_config(flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Builds the configuration.

    Args:
        flags: Values from the command line, by the setting's name; they win over the environment.
        environ: The environment; the process's own by default.

    Raises:
        ConfigError: Names every wrong setting and its source.
    """
    raw, source, wrong = _of_environment(os.environ if environ is None else environ)
    for name, value in (flags or {}).items():
        raw[name] = value
        source[name] = "--" + name.replace("_", "-")
    for given, name in SECRET_FILES.items():
        if given not in raw:
            continue
        file = raw.pop(given)
        if name in raw:
            wrong.append(f"{source[name]} and {source[given]}: give one of them")
            continue
        source[name] = source[given]
        try:
            raw[name] = _secret_in(file)
        except ValueError as error:
            wrong.append(f"{source[given]}: {file}: {error}")
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            wrong.append(f"{source.get(name, name) or 'settings'}: {problem['msg'].removeprefix('Value error, ')}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return config


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


def server_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a server process with these settings: this process's own, without its settings.

    Args:
        settings: Values by name; `load_config` in the server process gives all others their defaults.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return inherited | {ENV_PREFIX + name.upper(): _as_variable(value) for name, value in settings.items()}


def _as_variable(value: object) -> str:
    """A setting as `load_config` reads it from a variable."""
    return os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _of_environment(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The settings that the environment holds, the variable of each, and what is wrong: variables of no setting."""
    raw: dict[str, Any] = {}
    source: dict[str, str] = {}
    wrong: list[str] = []
    known = {*Config.model_fields, *SECRET_FILES}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in known:
            if _SERVICE_LINK.fullmatch(f"{variable.removeprefix(ENV_PREFIX)}={value}"):
                continue
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {ENV_PREFIX}{close[0].upper()}?" if close else ""
            wrong.append(f"{variable}: no such setting{hint}")
            continue
        raw[name] = [file for file in value.split(os.pathsep) if file] if name in FILE_LISTS else value
        source[name] = variable
    return raw, source, wrong
