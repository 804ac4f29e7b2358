"""The watchlist: a YAML file that says which features are watched, how they are scored and what is known of them.

    version: 1
    name: clinic
    reader: {path: reader, relation: reader_model}     # or {id: google/gemma-2-2b}, {known: ...}; see sources.py
    cleaned: beside                                    # none, or the reading without odd characters beside or instead
    saes:
      res: {path: sae/layer_2/width_3k/average_l0_32/params.npz}
      l20: {id: google/gemma-scope-2b-pt-res/layer_20/width_16k/average_l0_71, revision: ...}
      hedging: {path: probes/hedging.safetensors}      # dense directions, as `calibrate` writes them
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
        threshold_by_length: {slope: 0.2, reference_tokens: 40}   # 0.4 at 40 tokens, 0.2 more where e times as many
        severity: medium
      - name: speculation_dense
        kind: probe
        features: [{feature: hedging/0, pooling: mean}]
        threshold: 0.0
      - name: confidence
        kind: combination                              # of others' scores and of what the reader expected
        combines:
          - {indicator: speculation, weight: -1.0}
          - {signal: mean_logprob, weight: 0.5}        # or another of `terms.SIGNALS`
        threshold: 0.0
      - {name: hidden, kind: obfuscation, threshold: 0.01}   # the share of characters that hide or imitate letters
      - {name: hedges, kind: words, lexicon: hedges, threshold: 0.05}     # the share of words that are in a list

A lexicon is the name of a list that comes with the package, or words and phrases: `lexicon: [may, "in my opinion"]`. A
bag of words has a file, `bag: {path: ..., sha256: ...}`, which `calibrate` writes.

An indicator's score is `bias + sum(weight * pooling(activations of the feature on the segment's tokens))`, of a
combination `bias + sum(weight * score of the part)`, of words `bias + sum(what each word adds)`; it is flagged when the
score is greater than the threshold.
With `threshold_by_length` that is `threshold + slope * (ln(n_tokens) - ln(reference_tokens))`, where n_tokens counts
the segment's tokens.
Relative paths count from the watchlist's own folder.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from scopewatch.config import WATCHLISTS_BY_NAME, watchlist_file
from scopewatch.errors import WatchlistError
from scopewatch.files import expanded
from scopewatch.identity import EngineIdentity, FeatureKey
from scopewatch.sources import NAME, SOURCE, Name, ReaderSource, SaeSource, Several, Strict
from scopewatch.types import Cleaning
from scopewatch.watch.cards import Card
from scopewatch.watch.figures_digest import stale_figures, without_stale
from scopewatch.watch.indicators import PROBE, Indicator
from scopewatch.watch.mistakes import is_at_or_in, mistakes_of, repeated_names, unknown_parts
from scopewatch.watch.terms import ASSERTION_LEXICON
from scopewatch.watch.yaml_lines import Lines, Location, parse_yaml
from scopewatch.words.bag import Bag, load_bag
from scopewatch.words.lexicon import Lexicon, shipped

log = logging.getLogger(__name__)

_STALE = (
    "%s: figures of another dtype are left out: what they were measured of has changed since; measure again "
    "(scopewatch watchlist measure)"
)

MAX_FILE_BYTES = 16 << 20
_FREE = frozenset({("reader", "tools"), ("reader", "documents"), ("reader", "arguments")})
"""What a chat template is given, where JSON's null may stand."""
Source = TypeVar("Source", ReaderSource, SaeSource)
SaeName = Annotated[str, Field(pattern=rf"{NAME}|^{SOURCE}$")]


class _Document(Strict):
    version: Literal[1]
    name: Name
    reader: ReaderSource
    saes: dict[SaeName, SaeSource] = Field(default_factory=dict)
    """SAEs and files of probes, by the names that features use."""
    cleaned: Annotated[Cleaning, Field(strict=False)] = Cleaning.NONE
    indicators: Several[Indicator] = Field(min_length=1, max_length=256)

    @field_validator("version", mode="before")
    @classmethod
    def _is_a_whole_number(cls, value: object) -> object:
        return value if type(value) is int else None  # pydantic takes 1.0 and true for a literal 1


@dataclass(frozen=True, slots=True)
class Watchlist:
    """A valid watchlist file."""

    name: str
    reader: ReaderSource
    saes: dict[str, SaeSource]
    """SAEs and files of probes by name; a Neuronpedia source that features name directly is here too."""
    indicators: tuple[Indicator, ...]
    file: Path
    digest: str
    """SHA-256 of the file's bytes."""
    _lines: Lines = field(repr=False)
    cleaned: Cleaning = Cleaning.NONE
    """Whether pairs are read without what hides or imitates letters."""
    words: Mapping[str, Lexicon | Bag] = field(default_factory=dict)
    """What each indicator of kind `words` counts by, by its name; and so each combination that counts hedges."""

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

    @property
    def reads_head(self) -> bool:
        """Whether an indicator needs the reader's own predictions."""
        return any(term.signal for indicator in self.indicators for term in indicator.combines)

    def check_kinds(self, running: EngineIdentity) -> None:
        """Compares what indicators say they are made of with the files that were loaded.

        Raises:
            WatchlistError: One calls a probe's direction a feature, or a feature a probe's.
        """
        probes = {sae.name for sae in running.saes if sae.architecture == PROBE}
        for i, indicator in enumerate(self.indicators):
            for j, term in enumerate(indicator.features):
                if (term.key.sae in probes) != (indicator.kind == "probe"):
                    is_one = "is" if term.key.sae in probes else "is not"
                    raise WatchlistError(
                        f"{self.where('indicators', i, 'features', j)}: {term.key.sae} {is_one} a file of probes, "
                        f"and indicator {indicator.name} is of kind {indicator.kind}"
                    )

    def card_problems(self, running: EngineIdentity, *, as_made: bool = False) -> dict[str, str]:
        """Why cards do not speak for what runs, by the indicator's name; those that do, or have none, are left out.

        With `as_made` only the dtype counts that a card was made in, and none that was measured beside.
        """

        def problem(indicator: Indicator, card: Card) -> str:
            parts = [indicator, *self.parts_of(indicator)]
            saes = {term.key.sae for part in parts for term in part.features}
            words = {part.name: self.words[part.name].digest for part in parts if part.name in self.words}
            needs_weights = self.needs_weights(indicator)
            return card.problem(sorted(saes), running, words, needs_weights=needs_weights, as_made=as_made)

        told = {one.name: problem(one, one.card) for one in self.indicators if one.card}
        return {name: problem for name, problem in told.items() if problem}

    def parts_of(self, indicator: Indicator) -> list[Indicator]:
        """The indicators that an indicator combines."""
        by_name = {one.name: one for one in self.indicators}
        return [by_name[term.indicator] for term in indicator.combines if term.indicator]

    def needs_weights(self, indicator: Indicator) -> bool:
        """Whether an indicator needs the reader's weights; words and characters are counted without."""
        read = any(part.features for part in (indicator, *self.parts_of(indicator)))
        return read or any(term.signal for term in indicator.combines)

    def as_run(self, running: EngineIdentity) -> "Watchlist":
        """The watchlist whose cards have the figures of the dtype that runs, where they know them."""
        dtype = running.reader.dtype
        told = [
            one.model_copy(update={"card": one.card.in_dtype(dtype)}) if one.card else one for one in self.indicators
        ]
        return replace(self, indicators=tuple(told))

    def without_stale_figures(self) -> "Watchlist":
        """The watchlist without figures in other dtypes of which the terms, threshold or card have changed since; the
        log tells of each.
        """
        for i, indicator in enumerate(self.indicators):
            for j in stale_figures(indicator):
                log.warning(_STALE, self.where("indicators", i, "card", "also_measured", j))
        return replace(self, indicators=tuple(without_stale(indicator) for indicator in self.indicators))

    @property
    def has_relative_paths(self) -> bool:
        """Whether it names a file by a path that counts from its own folder."""
        bags = [indicator.bag.path for indicator in self.indicators if indicator.bag]
        paths = [self.reader.path, *(sae.path for sae in self.saes.values()), *bags]
        return any(path and not expanded(path).is_absolute() for path in paths)

    def resolve(self, path: str) -> Path:
        """A path that stands in the watchlist, which counts from the watchlist's folder unless it is absolute."""
        return self.file.parent / expanded(path)

    def absolute(self, source: Source) -> Source:
        """The source with its path, if it has one, counted from the root."""
        path = str(self.resolve(source.path).absolute()) if source.path else ""
        return source.model_copy(update={"path": path})


def load_watchlist(file: Path) -> Watchlist:
    """Reads and validates a watchlist.

    Args:
        file: The file; or the name of a known reader, for the watchlist that comes with it.

    Raises:
        WatchlistError: With one `file:line: field: problem` line for every mistake.
    """
    file = watchlist_file(file)
    raw = _read(file)
    document, lines = _checked(raw.decode(), file)
    sources = {term.key.sae for indicator in document.indicators for term in indicator.features}
    named_directly = {source: SaeSource(neuronpedia=source) for source in sorted(sources - document.saes.keys())}
    watchlist = Watchlist(
        name=document.name,
        reader=document.reader,
        saes=document.saes | named_directly,
        indicators=document.indicators,
        file=file,
        digest=hashlib.sha256(raw).hexdigest(),
        cleaned=document.cleaned,
        _lines=lines,
    )
    return replace(watchlist, words=_words(watchlist)).without_stale_figures()


def _words(watchlist: Watchlist) -> dict[str, Lexicon | Bag]:
    """The lexicons and bags that indicators count by.

    Raises:
        WatchlistError: The file of a bag is missing, changed or damaged.
    """
    found: dict[str, Lexicon | Bag] = {}
    for i, indicator in enumerate(watchlist.indicators):
        if indicator.bag:
            try:
                found[indicator.name] = load_bag(watchlist.resolve(indicator.bag.path), indicator.bag.sha256)
            except WatchlistError as problem:
                raise WatchlistError(f"{watchlist.where('indicators', i, 'bag')}: {problem}") from None
        elif indicator.lexicon:
            found[indicator.name] = lexicon_of(indicator)
        elif any(term.signal == "surprising_assertion" for term in indicator.combines):
            found[indicator.name] = shipped(ASSERTION_LEXICON)
    return found


def lexicon_of(indicator: Indicator) -> Lexicon:
    """The lexicon of an indicator of kind `words` that has one."""
    assert indicator.lexicon
    return shipped(indicator.lexicon) if isinstance(indicator.lexicon, str) else Lexicon(indicator.lexicon)


def _read(file: Path) -> bytes:
    """The file's bytes, which are UTF-8."""
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise WatchlistError(f"{file}: larger than {MAX_FILE_BYTES} bytes; a watchlist is a small file")
        raw = file.read_bytes()
        raw.decode()
    except OSError as error:
        known = (
            ""
            if file.suffix or file.parent.name
            else f"; readers whose own watchlist is known: {', '.join(WATCHLISTS_BY_NAME)}"
        )
        raise WatchlistError(f"{file}: cannot be read: {error.strerror}{known}") from None
    except UnicodeDecodeError as error:
        raise WatchlistError(f"{file}: not UTF-8 at byte {error.start}") from None
    return raw


def _checked(text: str, file: Path) -> tuple[_Document, Lines]:
    """The document that a text is, without a mistake, and the line of each of its values."""
    value, lines, mistakes = parse_yaml(text, file, free=_FREE)
    if not isinstance(value, dict):
        raise WatchlistError(f"{file}:1: a watchlist is a mapping with version, name, reader, saes and indicators")
    saes = value.get("saes")
    mistakes += repeated_names(value) + unknown_parts(value)
    document = None
    try:
        context = {"saes": {str(name) for name in saes} if isinstance(saes, dict) else None}
        document = _Document.model_validate(value, context=context)
    except ValidationError as error:
        known = {lines.name(place) for place, _ in mistakes}
        mistakes += [mistake for mistake in mistakes_of(error) if not is_at_or_in(lines.name(mistake[0]), known)]
    if mistakes or document is None:
        ordered = sorted({(lines.of(place), lines.name(place), message) for place, message in mistakes})
        raise WatchlistError("\n".join(f"{file}:{line}: {name}: {message}" for line, name, message in ordered))
    return document, lines
