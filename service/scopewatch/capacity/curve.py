"""Measured curves: the file that `scopewatch bench --out` writes and `scopewatch plan` reads."""

from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scopewatch.errors import SetupError

_SHIPPED = Path(__file__).parent / "measured"
_MAKE_ONE = "make one on that machine: scopewatch bench --watchlist W.yaml --out FILE.json"

Count = Annotated[int, Field(ge=1)]
Measure = Annotated[float, Field(gt=0)]
MiB = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Machine(_Part):
    """What it was measured on."""

    name: str
    """Of the GPU, or of the CPU."""
    kind: Literal["cpu", "cuda"]
    cores: Count
    architecture: str
    versions: dict[str, str]
    """Of scopewatch, Python and the libraries that compute."""
    load_before: float
    """Processes that wanted a core, on average over the minute before: what else ran."""


class Reads(_Part):
    """Whose figures they are: another reader, watched set or dtype has others."""

    watchlists: list[str]
    reader: str
    revision: str
    reader_digest: str
    layers_run: Annotated[int, Field(ge=0)]
    """0 where only the embedding is watched."""
    layers_total: Count
    dtype: str
    attention: str
    watched: Count
    """Features."""
    saes: Count
    watched_digest: str
    """SHA-256 over the SAEs' digests and the watched features of each."""


class Ran(_Part):
    """Settings in force."""

    torch_threads: Count
    max_tokens: Count
    """The setting, or the reader's context if that is shorter."""
    max_batch_tokens: Count
    prefix_cache_bytes: MiB
    cache_bytes: MiB


class Point(_Part):
    """Pairs of one length; medians over rounds."""

    tokens: Count
    tokens_per_s: Measure
    """Of the engine alone in full batches."""
    lone_ms: Measure
    """The engine on one pair."""
    call_ms: Measure
    """`Score` on a pair of about so many tokens while nobody else calls."""

    @property
    def pairs_per_s(self) -> float:
        return self.tokens_per_s / self.tokens


class Service(_Part):
    """A server process and a client in another, over gRPC."""

    tokens: Count
    """Of each pair, about."""
    computed_ratio: Measure
    """Tokens per second through `BatchScore` over those of the engine alone, some seconds before."""
    engine_busy: Annotated[float, Field(gt=0, le=1)]
    """Share of the time of these calls in which the engine computed: the same without what else the machine did."""
    cached_pairs_per_s: Measure
    """Pairs that lie in the cache, through `BatchScore`."""
    start_s: Measure
    """From the start of the process to ready."""


class Memory(_Part):
    """Of the server process; None where it cannot be told."""

    rest_mib: MiB | None
    peak_mib: MiB | None
    device_rest_mib: MiB | None
    device_peak_mib: MiB | None


class Curve(_Part):
    """What one machine does with one reader and watched set."""

    version: Literal[1] = 1
    made: date
    rounds: Count
    machine: Machine
    reads: Reads
    ran: Ran
    points: Annotated[list[Point], Field(min_length=1)]
    """By length; the last is `ran.max_tokens`."""
    service: Service
    memory: Memory

    @model_validator(mode="after")
    def _points_ascend(self) -> Self:
        lengths = [point.tokens for point in self.points]
        if lengths != sorted(set(lengths)) or lengths[-1] != self.ran.max_tokens:
            raise ValueError("points: tokens must ascend and end with ran.max_tokens")
        return self


def read_curve(file: Path) -> Curve:
    """Reads a file that `bench --out` wrote.

    Raises:
        SetupError: It cannot be read, is damaged, or is of another version.
    """
    try:
        return Curve.model_validate_json(file.read_bytes())
    except OSError as error:
        raise SetupError(f"{file}: cannot be read: {error.strerror}; {_MAKE_ONE}") from None
    except ValidationError as error:
        problems = {".".join(map(str, problem["loc"])): problem["msg"] for problem in error.errors()}
    # Of another version, the rest is different too.
    field = "version" if "version" in problems else next(iter(problems))
    told = problems[field].removeprefix("Value error, ")
    raise SetupError(f"{file}: {field + ': ' if field else ''}{told}; {_MAKE_ONE}")


def shipped_curves() -> list[str]:
    """Names of the curves that come with scopewatch."""
    return sorted(file.stem for file in _SHIPPED.glob("*.json"))


def shipped_curve(name: str) -> Curve:
    """One of them.

    Raises:
        SetupError: There is none of this name.
    """
    known = shipped_curves()
    if name not in known:
        raise SetupError(f"--device {name}: no such curve; there are: {_listed(known)}; or {_MAKE_ONE}")
    return read_curve(_SHIPPED / f"{name}.json")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
