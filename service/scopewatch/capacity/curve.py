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


class _CurvePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


class Machine(_CurvePart):
    """The machine that was measured."""

    name: str
    """The name of the GPU, or without one of the CPU."""
    kind: Literal["cpu", "cuda"]
    cores: Count
    """The number of CPU cores."""
    architecture: str
    versions: dict[str, str]
    """The versions of scopewatch, Python and the libraries that compute, by name."""
    load_before: float
    """The number of processes that wanted a core, on average over the minute before: what else ran."""


class WatchedReader(_CurvePart):
    """The reader and the watched set whose figures these are: another reader, watched set or dtype has others."""

    watchlists: list[str]
    """The names of the watchlists."""
    reader: str
    """The name of the reader."""
    revision: str
    reader_digest: str
    layers_run: Annotated[int, Field(ge=0)]
    """The number of layers that run; 0 where only the embedding is watched."""
    layers_total: Count
    dtype: str
    attention: str
    watched: Count
    """The number of watched features."""
    saes: Count
    """The number of their SAEs."""
    watched_digest: str
    """SHA-256 over the SAEs' digests and the watched features of each."""


class SettingsInForce(_CurvePart):
    """The settings that were in force."""

    torch_threads: Count
    max_tokens: Count
    """The setting of this name, or the reader's context if that is shorter."""
    max_batch_tokens: Count
    prefix_cache_bytes: MiB
    cache_bytes: MiB


class Point(_CurvePart):
    """What was measured on pairs of one length; each figure is a median over rounds."""

    tokens: Count
    """The length of each pair."""
    tokens_per_s: Measure
    """The rate of the engine alone, in full batches."""
    lone_ms: Measure
    """The time that the engine alone takes for one pair."""
    call_ms: Measure
    """The time of a `Score` call on a pair of about this length while nobody else calls."""

    @property
    def pairs_per_s(self) -> float:
        """The rate of the engine alone, in full batches."""
        return self.tokens_per_s / self.tokens


class ServiceCost(_CurvePart):
    """What a server process around the engine costs, called over gRPC by a client in another process."""

    tokens: Count
    """The length of each pair, about."""
    computed_ratio: Measure
    """The rate in tokens per second through `BatchScore`, over that of the engine alone some seconds before."""
    engine_busy: Annotated[float, Field(gt=0, le=1)]
    """The share of the time of these calls in which the engine computed: without what else the machine did, the same as
    `computed_ratio`.
    """
    cached_pairs_per_s: Measure
    """The rate through `BatchScore` of pairs that lie in the cache."""
    start_s: Measure
    """The time from the start of the process until it is ready."""


class ServerMemory(_CurvePart):
    """The memory of the server process, at rest and at most; None where the system does not tell it."""

    rest_mib: MiB | None
    peak_mib: MiB | None
    device_rest_mib: MiB | None
    device_peak_mib: MiB | None


class Curve(_CurvePart):
    """What one machine does with one reader and watched set, over the length of the pairs."""

    version: Literal[1] = 1
    made: date
    rounds: Count
    machine: Machine
    reads: WatchedReader
    ran: SettingsInForce
    points: Annotated[list[Point], Field(min_length=1)]
    """Ascending by length; the last has the length `ran.max_tokens`."""
    service: ServiceCost
    memory: ServerMemory

    @model_validator(mode="after")
    def _points_ascend(self) -> Self:
        lengths = [point.tokens for point in self.points]
        if lengths != sorted(set(lengths)) or lengths[-1] != self.ran.max_tokens:
            raise ValueError("points: tokens must ascend and end with ran.max_tokens")
        return self


def read_curve(file: Path) -> Curve:
    """Reads a curve from a file that `scopewatch bench --out` wrote.

    Raises:
        SetupError: The file cannot be read, is damaged, or is of another version.
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
    """The names of the curves that come with scopewatch."""
    return sorted(file.stem for file in _SHIPPED.glob("*.json"))


def shipped_curve(name: str) -> Curve:
    """A curve that comes with scopewatch.

    Raises:
        SetupError: There is none of this name.
    """
    known = shipped_curves()
    if name not in known:
        raise SetupError(f"--device {name}: no such curve; there are: {_listed(known)}; or {_MAKE_ONE}")
    return read_curve(_SHIPPED / f"{name}.json")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
