"""Settings from the environment. A misspelt variable is refused, not ignored; those that Kubernetes makes of Services
are no settings.
"""

import os
import re
from collections.abc import Mapping

from scopewatch.config.config_file import CONFIG
from scopewatch.config.given import Given, unknown
from scopewatch.config.settings import FILE_LISTS, SECRET_FILES, Config

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


def of_environment(environ: Mapping[str, str] | None) -> Given:
    """The settings that an environment holds; the process's own, if none is given."""
    given = Given()
    known = {*Config.model_fields, *SECRET_FILES, CONFIG}
    for variable, value in (os.environ if environ is None else environ).items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name in known:
            several = name in FILE_LISTS
            given.add(name, [file for file in value.split(os.pathsep) if file] if several else value, variable)
        elif not _SERVICE_LINK.fullmatch(f"{variable.removeprefix(ENV_PREFIX)}={value}"):
            given.wrong.append(unknown(variable, name, known, _variable))
    return given


def server_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of a server process with these settings: this process's own, without its settings.

    Args:
        settings: Values by name; `load_config` in the server process gives all others their defaults.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    return inherited | {_variable(name): _as_variable(value) for name, value in settings.items()}


def _variable(name: str) -> str:
    """The variable of a setting."""
    return ENV_PREFIX + name.upper()


def _as_variable(value: object) -> str:
    """A setting as `load_config` reads it from a variable."""
    return os.pathsep.join(map(str, value)) if isinstance(value, tuple) else str(value)
