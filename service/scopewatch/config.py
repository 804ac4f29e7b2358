"""Settings of the service: command-line flags over `SCOPEWATCH_*` environment variables over defaults.

The only module that reads the environment. A misspelt variable is refused, not ignored; those that Kubernetes makes of
Services are no settings.
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from scopewatch.errors import ConfigError
from scopewatch.files import expanded

ENV_PREFIX = "SCOPEWATCH_"
ENGINE_SETTINGS = (
    "device",
    "dtype",
    "allow_download",
    "reader_dir",
    "pack_dir",
    "torch_compile",
    "torch_threads",
    "max_tokens",
    "max_windows",
    "max_batch_tokens",
    "prefix_cache_bytes",
)
"""Settings that decide what the engine computes and how fast; commands without a server have only these."""
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
_DEMO = Path(__file__).parent / "demo"
BUNDLED_WATCHLIST = _DEMO / "watchlist.yaml"
WATCHLISTS_BY_NAME = {"smollm2-135m-instruct": _DEMO / "smollm2-135m-instruct" / "watchlist.yaml"}
"""Watchlists that come with the package for known readers, by the reader's name."""


class Config(BaseModel):
    """The settings, an immutable record that is read once. Flag `--max-tokens` is variable `SCOPEWATCH_MAX_TOKENS`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    watchlist: tuple[Path, ...] = Field(
        (BUNDLED_WATCHLIST,),
        min_length=1,
        description="watchlist files, or known readers whose own are meant; the first is the default one",
    )
    strict_cards: bool = Field(
        False, description="refuse to start when a card was made with another reader, SAE, dtype or template"
    )
    labels: str = Field("", description="label index made by `scopewatch features import`; empty for none")
    grpc_address: str = Field("127.0.0.1:50051", description="host:port for gRPC; port 0 picks a free one")
    metrics_address: str = Field("127.0.0.1:9464", description="host:port for Prometheus metrics over HTTP")
    reflection: bool = Field(False, description="serve gRPC server reflection")

    device: str = Field("auto", description="auto, cpu, cuda or cuda:N")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="reader weights: auto is float32 on a CPU, bfloat16 on a GPU"
    )
    allow_download: bool = Field(False, description="let a hub id be downloaded; otherwise only local files")
    reader_dir: str = Field(
        "auto", description="folder of known readers, see `scopewatch reader`; auto is ~/.cache/scopewatch/readers"
    )
    pack_dir: str = Field(
        "auto",
        description="folder of watch packs, the watched parts of large SAEs; empty for none, "
        "auto is ~/.cache/scopewatch/packs for SAEs above 32 MiB",
    )
    torch_compile: bool = Field(False, description="compile norms and MLPs of the reader; on a CPU it gains nothing")
    torch_threads: int = Field(0, ge=0, description="CPU threads of the engine; 0 takes all cores but one")

    max_tokens: int = Field(1024, ge=16, description="tokens read of one pair in one pass")
    max_windows: int = Field(
        8, ge=1, le=1024, description="passes over a response that does not fit one, as many as max_queue_tokens holds"
    )
    max_batch_tokens: int = Field(
        0, ge=0, description="tokens the engine computes at once; 0: 4,096 on a CPU, what fits up to 16,384 on a GPU"
    )
    max_queue_tokens: int = Field(262_144, ge=16, description="tokens that may wait; beyond it requests are refused")
    max_message_bytes: int = Field(8 << 20, ge=1024, le=48 << 20, description="size of one request message")
    max_text_chars: int = Field(100_000, ge=1, description="code points in one text field")
    max_reply_bytes: int = Field(
        (4 << 20) - (64 << 10),
        ge=64 << 10,
        description="size of one reply message; plain gRPC clients take 4 MiB",
    )
    max_batch_items: int = Field(256, ge=1, description="pairs in one BatchScore")
    max_labels: int = Field(16, ge=0, description="entries of a request's labels")
    max_label_chars: int = Field(256, ge=1, description="code points in a label, id, role or watchlist name")
    max_history_turns: int = Field(64, ge=0, description="entries of a request's history")
    max_evidence: int = Field(16, ge=1, description="evidence spans returned per indicator")
    max_feature_series: int = Field(200, ge=0, description="features that get their own metric series")

    prefix_cache_bytes: int = Field(
        256 << 20, ge=0, description="size of what is kept of beginnings that texts share; 0 switches it off"
    )
    cache_bytes: int = Field(
        64 << 20, ge=0, description="size of the in-process cache, half of it for judgements; 0 switches it off"
    )
    redis_url: SecretStr = Field(
        SecretStr(""), description="redis:// or rediss:// URL; empty uses the in-process cache"
    )
    redis_mode: Literal["standalone", "cluster", "sentinel"] = Field(
        "standalone", description="what redis_url points at"
    )
    redis_sentinel_service: str = Field("mymaster", description="name of the master in sentinel mode")
    redis_timeout_s: float = Field(0.075, gt=0, le=5, description="longest wait for one Redis operation")
    cache_ttl_s: int = Field(86_400, ge=1, description="life of a Redis entry, jittered by 10 percent")
    cache_secret: SecretStr = Field(SecretStr(""), description="HMAC secret of cache keys; the same on every replica")

    drain_delay_s: float = Field(0.0, ge=0, description="wait between turning not-ready and refusing requests")
    drain_grace_s: float = Field(20.0, ge=0, description="time given to running requests at shutdown")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")
    log_format: Literal["json", "text"] = Field("json", description="log line format")

    @property
    def reader_folder(self) -> Path:
        """The folder of known readers.

        Raises:
            SetupError: It lies in a home that there is not.
        """
        return expanded(cache_folder("readers") if self.reader_dir == "auto" else self.reader_dir)

    @property
    def at_once(self) -> int:
        """How many pairs of a file can wait together: the queue never refuses so many, however long they are."""
        return min(256, self.max_queue_tokens // (self.max_tokens * self.windows))

    @property
    def windows(self) -> int:
        """How many passes over a response there can be: the queue takes all of them."""
        return min(self.max_windows, self.max_queue_tokens // self.max_tokens)

    @field_validator("grpc_address", "metrics_address")
    @classmethod
    def _is_host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{address!r}: expected host:port, for instance 127.0.0.1:50051")
        return address

    @model_validator(mode="after")
    def _limits_fit_each_other(self) -> "Config":
        if 0 < self.max_batch_tokens < self.max_tokens:
            raise ValueError("max_batch_tokens must be at least max_tokens, or a full pair never fits a batch")
        if self.max_queue_tokens < self.max_tokens:
            raise ValueError("max_queue_tokens must be at least max_tokens, or a full pair is never taken")
        if self.max_queue_tokens < self.max_batch_tokens:
            raise ValueError("max_queue_tokens must be at least max_batch_tokens")
        return self


def watchlist_file(named: Path) -> Path:
    """The file of a watchlist.

    Args:
        named: The file, or where there is no such file, the name of a known reader whose watchlist is meant.
    """
    return named if named.exists() else WATCHLISTS_BY_NAME.get(str(named), named)


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
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            wrong.append(f"{source.get(name, name) or 'settings'}: {problem['msg'].removeprefix('Value error, ')}")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return config


def cache_folder(name: str) -> Path:
    """A folder of scopewatch's cache, which lies in `$XDG_CACHE_HOME` (as XDG specifies it) or `~/.cache`.

    Args:
        name: What the folder is for, such as `packs`.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path("~/.cache")) / "scopewatch" / name


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
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name not in Config.model_fields:
            if _SERVICE_LINK.fullmatch(f"{variable.removeprefix(ENV_PREFIX)}={value}"):
                continue
            close = difflib.get_close_matches(name, Config.model_fields, n=1)
            hint = f"; did you mean {ENV_PREFIX}{close[0].upper()}?" if close else ""
            wrong.append(f"{variable}: no such setting{hint}")
            continue
        raw[name] = [file for file in value.split(os.pathsep) if file] if name == "watchlist" else value
        source[name] = variable
    return raw, source, wrong
