"""The recipe for a combination of SAE features, or a probe, from labelled pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from scopewatch.calibration.calibrate import Found, calibrate
from scopewatch.calibration.card_making import data_files, labelled_card, made_with
from scopewatch.calibration.chosen_features import assert_in_range
from scopewatch.calibration.evidence import assert_enough
from scopewatch.calibration.fragility.of_features import FittedOnFeatures
from scopewatch.calibration.fragility.table import table_of
from scopewatch.calibration.outcome import Outcome
from scopewatch.calibration.reference import held_out_reference
from scopewatch.calibration.request import Request, telling
from scopewatch.calibration.simple_detectors import Probe, rows_of
from scopewatch.calibration.sparse_fit import Combination
from scopewatch.calibration.term_tables import features_table
from scopewatch.config import Config
from scopewatch.engine.dictionary import DictionaryEngine, build_dictionary
from scopewatch.identity import FeatureKey, SaeIdentity
from scopewatch.pairs.feature_words import FiresOn, fires_on
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.sae.pack import load_pack, write_probe
from scopewatch.sources import ReaderSource, SaeSource, today
from scopewatch.statistics.scores import Bool, Rows, Scores
from scopewatch.types import Rounding, Segment
from scopewatch.watch.reference import term_name

_AT_ONCE = 10_000
"""Held-out pairs whose features are in memory together."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The reader and the SAE that read the pairs."""

    reader: ReaderSource
    sae: SaeSource
    sae_name: str
    """The name that the SAE has in the watchlist."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What a detector is made of, as an indicator says it."""

    features: list[dict[str, Any]]
    bias: float
    saes: dict[str, SaeSource]
    """The SAE or the probe that the features name."""
    digests: dict[str, str]
    """The digest of each of these, by name."""


def calibrate_detector(
    request: Request, sources: Sources, config: Config, *, work_dir: Path, describe: bool = True
) -> Outcome:
    """Calibrates an indicator of features, or a probe, whose file is written too.

    Args:
        request: What is asked for.
        sources: The reader and the SAE.
        config: Settings of the engine.
        work_dir: The folder in which pooled features are found and left.
        describe: Whether features get labels from the words on which they are strongest.

    Raises:
        ScopewatchError: The indicator could not be written, the data do not support it, or the reader failed.
    """
    wanted = request.wanted
    read = request.labelled_pairs()
    pairs = read.pairs
    _rehearse(request, sources)
    assert_enough(pairs, wanted)
    dictionary = build_dictionary(sources.reader, sources.sae, config)
    assert_in_range(wanted.features, dictionary.d_sae)
    pooled = encode_pairs(pairs, dictionary, segment=_segment(request), folder=work_dir, reading=request.reading)
    tally = read.tally.without(pooled.left_out).noting(*pooled.notes).need(request.indicator)
    # On matrices so small, threads that wait for each other cost more than they do.
    with telling(tally), threadpool_limits(limits=1, user_api="blas"):
        found = calibrate(pairs, pooled, wanted)
    told: dict[int, FiresOn] = {}
    if found.probe:
        made = _probe(request, found.probe, dictionary.identity.saes[0])
    else:
        assert found.combination is not None
        told = _fires_on(request, pairs, pooled, found, dictionary) if describe else {}
        made = _combination(found.combination, told, sources, dictionary.identity.saes[0])
    files = data_files(request, [pairs[row] for row in np.flatnonzero(pooled.tokens > 0).tolist()])
    ran = made_with(dictionary.identity, made.digests)
    fragility = None
    if wanted.fragility:

        def dictionary_of(rounding: Rounding) -> DictionaryEngine:
            plain = rounding == "none"
            return dictionary if plain else build_dictionary(sources.reader, sources.sae, config, rounding=rounding)

        detector = FittedOnFeatures(found, pairs, pooled, wanted, _segment(request), dictionary_of, work_dir)
        with threadpool_limits(limits=1, user_api="blas"):
            fragility = table_of(pairs, found.parts, detector, segment=_segment(request))
    reference = held_out_reference(
        files, pairs, found.parts, found.evidence, lambda rows: _terms(found, pooled, rows, made)
    )
    card = labelled_card(
        found.evidence, wanted, files, ran, date=today(), tally=tally, reference=reference, fragility=fragility
    )
    indicator = request.made_indicator(
        card=card, kind=wanted.kind, features=made.features, bias=made.bias, **found.evidence.as_fields()
    )
    strongest = {feature: one.strongest for feature, one in told.items()}
    terms = features_table(indicator, found.evidence.labels, _fired(found, pooled, made), strongest)
    return Outcome(indicator, sources.reader, made.saes, found.evidence.threshold, found.evidence, tally, terms)


def _rehearse(request: Request, sources: Sources) -> None:
    """Finds out whether the indicator could be written."""
    probe = f"{request.indicator}_probe", SaeSource(path=str(_probe_file(request)))
    name, source = probe if request.wanted.kind == "probe" else (sources.sae_name, sources.sae)
    feature = {"feature": f"{name}/0", "pooling": "mean"}
    draft = request.made_indicator(threshold=0.0, kind=request.wanted.kind, features=[feature])
    request.rehearse_writing(draft, sources.reader, {name: source})


def _fires_on(
    request: Request, pairs: list[LabelledPair], pooled: PooledPairs, found: Found, dictionary: DictionaryEngine
) -> dict[int, FiresOn]:
    assert found.combination is not None
    features = sorted({term.feature for term in found.combination.terms})
    return fires_on(pairs, pooled, found.parts.fit, features, dictionary=dictionary, segment=_segment(request))


def _terms(found: Found, pooled: PooledPairs, rows: Rows, made: _Made) -> dict[str, Scores]:
    """The pooled values of the indicator's terms on some pairs, by the term's name; `rows` ascend."""
    (sae,) = made.saes
    if found.probe:
        name = term_name(FeatureKey(sae, 0), found.probe.pooling)
        return {name: found.probe.scores(rows_of(pooled.dense, rows))}
    assert found.combination is not None
    terms = found.combination.terms
    return {
        term_name(FeatureKey(sae, term.feature), pooling): matrix[:, [term.feature]].toarray()[:, 0]
        for pooling in dict.fromkeys(term.pooling for term in terms)
        for matrix in [pooled.features(pooling, rows)]
        for term in terms
        if term.pooling == pooling
    }


def _fired(found: Found, pooled: PooledPairs, made: _Made) -> dict[str, Bool]:
    """Whether each of the indicator's terms is not 0 on the held-out pairs, by the term's name."""
    held_out = found.parts.held_out
    some = [_terms(found, pooled, rows, made) for rows in np.split(held_out, range(_AT_ONCE, len(held_out), _AT_ONCE))]
    return {name: np.concatenate([values[name] != 0 for values in some]) for name in some[0]}


def _combination(combination: Combination, told: dict[int, FiresOn], sources: Sources, running: SaeIdentity) -> _Made:
    name = sources.sae_name
    features = [
        {
            "feature": f"{name}/{term.feature}",
            "weight": term.weight,
            "pooling": term.pooling,
            "label": told[term.feature].label if term.feature in told else "",
        }
        for term in combination.terms
    ]
    return _Made(features, combination.bias, {name: sources.sae}, {name: running.digest})


def _probe(request: Request, probe: Probe, running: SaeIdentity) -> _Made:
    """Writes the probe's file beside the watchlist."""
    name, file = f"{request.indicator}_probe", _probe_file(request)
    direction, bias = probe.direction.astype(np.float32), np.array([probe.bias], np.float32)
    write_probe(file, direction, bias, hookpoint=running.hookpoint, origin={"made_of": running.digest})
    features = [{"feature": f"{name}/0", "pooling": probe.pooling}]
    return _Made(features, 0.0, {name: SaeSource(path=str(file))}, {name: load_pack(file).digest})


def _probe_file(request: Request) -> Path:
    return request.out.absolute().with_name(f"{request.out.stem}.{request.indicator}.safetensors")


def _segment(request: Request) -> Segment:
    return Segment[request.segment.upper()]
