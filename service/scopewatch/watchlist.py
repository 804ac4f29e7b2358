"""The watchlist: a YAML file that says which features are watched, how they are scored and what is known of them.

    version: 1
    name: clinic
    reader: {path: reader, relation: reader_model}     # or {id: google/gemma-2-2b, revision: ...}
    saes:
      res: {path: sae/layer_2/width_3k/average_l0_32/params.npz}
      l20: {id: google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71, revision: ...}
    indicators:
      - name: speculation
        label: Hedged or guessed claims
        segment: response
        pooling: max                                   # of every feature that names none
        features:
          - {feature: res/1234, weight: 0.8, label: "may, might"}
          - {feature: res/77, weight: 0.3, pooling: {kind: rolling_mean_max, window: 8}}
          - {feature: gemma-2-2b/12-gemmascope-res-16k/7957}   # a Neuronpedia id needs no entry under saes
        bias: -1.5
        threshold: 0.4
        severity: medium

An indicator's score is `bias + sum(weight * pooling(activations of the feature on the segment's tokens))`; it is
flagged when the score is greater than the threshold. Relative paths count from the watchlist's own folder.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from scopewatch.errors import WatchlistError
from scopewatch.types import FeatureKey, Relation, Segment
from scopewatch.yamlfile import Lines, Location, Mistake, parse_yaml

MAX_FILE_BYTES = 16 << 20
_NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
_SOURCE = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}/[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_FEATURE = re.compile(rf"(?P<sae>[A-Za-z][A-Za-z0-9_.-]{{0,63}}|{_SOURCE})/(?P<index>0|[1-9][0-9]{{0,8}})\Z")
_POOLING_ARGUMENTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # kind: (required, optional)
    "max": (frozenset(), frozenset()),
    "mean": (frozenset(), frozenset()),
    "sum": (frozenset(), frozenset()),
    "fraction_active": (frozenset(), frozenset()),
    "rolling_mean_max": (frozenset({"window"}), frozenset()),
    "k_of_n": (frozenset({"k"}), frozenset({"n"})),
}

Name = Annotated[str, Field(pattern=_NAME)]
SaeName = Annotated[str, Field(pattern=rf"{_NAME}|^{_SOURCE}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Pooling(_Strict):
    """How a feature's activations on the n tokens of a segment become one number.

    max: largest. mean: average over all tokens. sum: total. fraction_active: share of tokens above 0.
    rolling_mean_max: largest mean over `window` consecutive tokens (over all when the segment is shorter).
    k_of_n: largest value that at least `k` of some `n` consecutive tokens reach (`n` omitted: of all), so that a
    threshold of t asks for k tokens above t; 0 when there are fewer than k tokens.
    """

    kind: Literal["max", "mean", "sum", "fraction_active", "rolling_mean_max", "k_of_n"]
    window: int | None = Field(None, ge=1, le=4096)
    k: int | None = Field(None, ge=1, le=4096)
    n: int | None = Field(None, ge=1, le=4096)

    @model_validator(mode="after")
    def _arguments_fit(self) -> Self:
        required, optional = _POOLING_ARGUMENTS[self.kind]
        given = {name for name in ("window", "k", "n") if getattr(self, name) is not None}
        if missing := required - given:
            raise ValueError(f"pooling {self.kind} needs {', '.join(sorted(missing))}")
        if extra := given - required - optional:
            raise ValueError(f"pooling {self.kind} takes no {', '.join(sorted(extra))}")
        if self.k and self.n and self.k > self.n:
            raise ValueError(f"k_of_n asks for k={self.k} of only n={self.n} tokens")
        return self

    def __str__(self) -> str:
        given = [f"{name}={value}" for name in ("window", "k", "n") if (value := getattr(self, name)) is not None]
        return f"{self.kind}({', '.join(given)})" if given else self.kind


def _pooling_from_word(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


PoolingField = Annotated[Pooling, BeforeValidator(_pooling_from_word)]


class WatchedFeature(_Strict):
    feature: str
    """`{sae}/{index}`, the SAE a name under `saes` or a Neuronpedia source such as gemma-2-2b/20-gemmascope-res-16k."""
    weight: Finite = 1.0
    pooling: PoolingField | None = None
    label: str = Field("", max_length=200)
    citation: str = Field("", max_length=400)
    """Where the feature was published, if it was."""

    @field_validator("feature")
    @classmethod
    def _names_a_known_sae(cls, value: str, info: ValidationInfo) -> str:
        match = _FEATURE.match(value)
        if not match:
            raise ValueError(
                f"a feature is written sae/index, for instance res/1234 or gemma-2-2b/20-gemmascope-res-16k/1234, "
                f"not {value!r}"
            )
        known = (info.context or {}).get("saes")
        if known is not None and match["sae"] not in known and "/" not in match["sae"]:
            raise ValueError(
                f"there is no SAE {match['sae']!r} under saes (there: {', '.join(sorted(known)) or 'none'})"
            )
        return value

    @field_validator("weight")
    @classmethod
    def _weighs_something(cls, value: float) -> float:
        if value == 0:
            raise ValueError("a weight of 0 watches nothing; remove the feature")
        return value

    @property
    def key(self) -> FeatureKey:
        sae, _, index = self.feature.rpartition("/")
        return FeatureKey(sae, int(index))


class Probability(_Strict):
    """Platt scaling: probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: Finite = Field(gt=0)
    intercept: Finite


Rate = Annotated[float, Field(ge=0, le=1)]


class Measurement(_Strict):
    """How an indicator did on one labelled data set that its calibration did not see."""

    data: str = Field(min_length=1)
    n: int = Field(ge=1)
    n_positive: int = Field(ge=0)
    auroc: Rate
    auroc_low: Rate | None = None
    auroc_high: Rate | None = None
    tpr: Rate | None = None
    fpr: Rate | None = None
    baselines: dict[str, Rate] = Field(default_factory=dict)
    """AUROC of other detectors on the same pairs."""


class Card(_Strict):
    """Evidence for a threshold: what it was calibrated on, and what was measured elsewhere."""

    date: str
    calibrated_on: str = Field(min_length=1)
    n: int = Field(ge=1)
    measurements: tuple[Measurement, ...] = Field(min_length=1)
    note: str = ""

    @field_validator("date", mode="before")
    @classmethod
    def _yaml_reads_dates(cls, value: object) -> str:
        return str(value)


class Indicator(_Strict):
    name: Name
    label: str = Field("", max_length=200)
    segment: Literal["prompt", "response", "history"] = "response"
    severity: Literal["info", "low", "medium", "high"] = "medium"
    """`info` is for the record: it never makes the verdict FLAG."""
    pooling: PoolingField = Pooling(kind="max")
    features: tuple[WatchedFeature, ...] = Field(min_length=1, max_length=4096)
    bias: Finite = 0.0
    threshold: Finite
    probability: Probability | None = None
    card: Annotated[Card | None, BeforeValidator(lambda card: None if card == "uncalibrated" else card)] = None
    """None is written `uncalibrated`, or left out."""

    @model_validator(mode="after")
    def _terms_are_distinct(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for term in self.features:
            identity = (term.feature, str(term.pooling or self.pooling))
            if identity in seen:
                raise ValueError(f"feature {term.feature} stands twice with pooling {identity[1]}; add the weights")
            seen.add(identity)
        return self

    @property
    def calibrated(self) -> bool:
        return self.card is not None

    @property
    def read_segment(self) -> Segment:
        return Segment[self.segment.upper()]


class ReaderSource(_Strict):
    path: str = ""
    """Directory, relative to the watchlist."""
    id: str = ""
    """Hugging Face hub id."""
    revision: str = ""
    relation: Relation = Relation.READER_MODEL

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if bool(self.path) == bool(self.id):
            raise ValueError("give either path (a directory) or id (a hub id)")
        return self


class SaeSource(_Strict):
    """Where an SAE is: a path, a hub id, a SAELens release and id, or a Neuronpedia source."""

    path: str = ""
    """Folder or weights file as published, or a watch pack; relative to the watchlist."""
    id: str = ""
    """`owner/name/path` on the Hugging Face hub; with `release`, the SAE's id in it."""
    revision: str = ""
    """Branch, tag or commit on the hub."""
    release: str = ""
    """SAELens release."""
    neuronpedia: str = Field("", pattern=rf"^({_SOURCE})?$")
    """`model/source`; beside path or id it only says where its features have pages."""
    hookpoint: str = ""
    """For instance layers.20.resid_post; as the SAE's files and folders say when empty."""
    norm_factor: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What activations are multiplied by, where the SAE asks for such a factor and its files lack it."""
    k: int | None = Field(None, ge=1)
    """Features that fire per token, where a TopK SAE's files do not say."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if not (self.path or self.id or self.neuronpedia) or (self.path and self.id):
            raise ValueError("give one of path, id (a hub id, or with release a SAELens id) and neuronpedia")
        if self.release and not self.id:
            raise ValueError("a release needs the id of an SAE in it")
        if self.revision and self.path:
            raise ValueError("a revision belongs to a hub id, not to a path")
        return self

    @property
    def name(self) -> str:
        """How it was named, for people."""
        return self.path or (f"{self.release}:{self.id}" if self.release else self.id) or self.neuronpedia


class _Document(_Strict):
    version: Literal[1]
    name: Name
    reader: ReaderSource
    saes: dict[SaeName, SaeSource] = Field(default_factory=dict)
    indicators: tuple[Indicator, ...] = Field(min_length=1, max_length=256)


@dataclass(frozen=True, slots=True)
class Watchlist:
    """A valid watchlist file."""

    name: str
    reader: ReaderSource
    saes: dict[str, SaeSource]
    """By name; a Neuronpedia source that features name directly is here too."""
    indicators: tuple[Indicator, ...]
    file: Path
    digest: str
    """SHA-256 of the file's bytes."""
    _lines: Lines = field(repr=False)

    def where(self, *location: str | int) -> str:
        """`file:line: path`, for messages about something found wrong after loading."""
        return f"{self.file}:{self._lines.of(location)}: {self._lines.name(location)}"

    @property
    def features(self) -> dict[FeatureKey, Location]:
        """Every watched feature and where it first stands."""
        found: dict[FeatureKey, Location] = {}
        for i, indicator in enumerate(self.indicators):
            for j, term in enumerate(indicator.features):
                found.setdefault(term.key, ("indicators", i, "features", j, "feature"))
        return found

    def resolve(self, path: str) -> Path:
        """A path of the file, relative to the file's folder unless absolute."""
        return self.file.parent / Path(path).expanduser()


def load_watchlist(file: Path) -> Watchlist:
    """Reads and validates a watchlist.

    Raises:
        WatchlistError: With one `file:line: field: problem` line for every mistake.
    """
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise WatchlistError(f"{file}: larger than {MAX_FILE_BYTES} bytes; a watchlist is a small file")
        raw = file.read_bytes()
        text = raw.decode()
    except OSError as error:
        raise WatchlistError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise WatchlistError(f"{file}: not UTF-8 at byte {error.start}") from None
    value, lines, mistakes = parse_yaml(text, file)
    if not isinstance(value, dict):
        raise WatchlistError(f"{file}:1: a watchlist is a mapping with version, name, reader, saes and indicators")
    saes = value.get("saes")
    mistakes += _repeated_names(value)
    document = None
    try:
        context = {"saes": {str(name) for name in saes} if isinstance(saes, dict) else None}
        document = _Document.model_validate(value, context=context)
    except ValidationError as error:
        mistakes += _mistakes(error)
    if mistakes or document is None:
        ordered = sorted({(lines.of(place), lines.name(place), message) for place, message in mistakes})
        raise WatchlistError("\n".join(f"{file}:{line}: {name}: {message}" for line, name, message in ordered))
    sources = {term.key.sae for indicator in document.indicators for term in indicator.features}
    named_directly = {source: SaeSource(neuronpedia=source) for source in sorted(sources - document.saes.keys())}
    return Watchlist(
        name=document.name,
        reader=document.reader,
        saes=document.saes | named_directly,
        indicators=document.indicators,
        file=file,
        digest=hashlib.sha256(raw).hexdigest(),
        _lines=lines,
    )


def _repeated_names(value: dict[str, Any]) -> list[Mistake]:
    indicators = value.get("indicators")
    seen: set[str] = set()
    mistakes: list[Mistake] = []
    for i, indicator in enumerate(indicators if isinstance(indicators, list) else []):
        name = indicator.get("name") if isinstance(indicator, dict) else None
        if isinstance(name, str) and name in seen:
            mistakes.append((("indicators", i, "name"), f"another indicator is already named {name!r}"))
        elif isinstance(name, str):
            seen.add(name)
    return mistakes


def _mistakes(error: ValidationError) -> list[Mistake]:
    found = [(tuple(problem["loc"]), problem["type"], _plain(problem["msg"])) for problem in error.errors()]
    # A list whose items are all wrong is also called too short; only the items are news.
    return [
        (loc, "needs at least one entry" if kind == "too_short" else message)
        for loc, kind, message in found
        if kind != "too_short" or not any(other[: len(loc)] == loc and other != loc for other, _, _ in found)
    ]


def _plain(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return {
        "Extra inputs are not permitted": "no such key here",
        "Field required": "missing",
    }.get(message, message)
