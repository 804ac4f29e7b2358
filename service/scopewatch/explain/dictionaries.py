"""What whole SAEs made of a pair, as the engine looked at it, with the labels of their features."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from scopewatch.engine.looks import Looked, SegmentTop
from scopewatch.explain.texts import ReadTexts, segment_name
from scopewatch.explanation import DictionaryFeature, SaeExplained, SegmentFeatures, TokenFeatures
from scopewatch.identity import FeatureKey
from scopewatch.pipeline.compiled import CompiledIndicator, CompiledWatchlist
from scopewatch.verdicts import Label

Labels = Callable[[str, Sequence[int]], Mapping[int, Label]]
"""The labels of features by the name of their SAE and their indices, of those that have any."""
_NONE = Label("", "")


def watched_labels(watchlist: CompiledWatchlist) -> dict[FeatureKey, Label]:
    """The label of each watched feature; of several the first that the watchlist itself gives, if it gives any."""
    found: dict[FeatureKey, Label] = {}
    for indicator in watchlist.indicators:
        for term in indicator.terms if isinstance(indicator, CompiledIndicator) else ():
            known = found.setdefault(term.feature, term.label)
            if term.label.source == "watchlist" != known.source:
                found[term.feature] = term.label
    return found


def saes_explained(
    looked: Iterable[Looked], texts: ReadTexts, watched: Mapping[FeatureKey, Label], labels: Labels
) -> tuple[SaeExplained, ...]:
    """What an explanation says of whole SAEs.

    Args:
        looked: What the engine found, one for each SAE.
        texts: The texts, with the tokens of the explanation.
        watched: The watched features with their labels.
        labels: Gives the labels of features that are not watched, or have none there.
    """
    return tuple(_explained(one, texts, watched, labels) for one in looked)


def _explained(looked: Looked, texts: ReadTexts, watched: Mapping[FeatureKey, Label], labels: Labels) -> SaeExplained:
    own = {key.index: label for key, label in watched.items() if key.sae == looked.sae}
    told = {int(feature) for segment in looked.segments for feature in segment.feature}
    unnamed = sorted(feature for feature in told if not own.get(feature, _NONE).text)
    known = {**own, **(labels(looked.sae, unnamed) if unnamed else {})}
    unexplained = () if looked.unexplained is None else looked.unexplained[texts.positions].tolist()
    return SaeExplained(
        sae=looked.sae,
        hookpoint=looked.hookpoint,
        d_sae=looked.d_sae,
        segments=tuple(
            SegmentFeatures(
                segment=segment_name(top.segment),
                features=tuple(_features(top, own.keys(), known)),
                unexplained=looked.shares.get(top.segment),
            )
            for top in looked.segments
        ),
        tokens=tuple(
            TokenFeatures(feature=tuple(feature[feature >= 0].tolist()), activation=tuple(value[feature >= 0].tolist()))
            for feature, value in zip(looked.feature[texts.positions], looked.value[texts.positions], strict=True)
        ),
        unexplained=tuple(unexplained),
        l0=looked.l0,
        problem=looked.problem,
    )


def _features(top: SegmentTop, watched: Iterable[int], labels: Mapping[int, Label]) -> Iterable[DictionaryFeature]:
    columns = (np.asarray(column).tolist() for column in (top.feature, top.peak, top.mean, top.tokens))
    watched = set(watched)
    for feature, peak, mean, tokens in zip(*columns, strict=True):
        label = labels.get(feature, _NONE)
        yield DictionaryFeature(
            feature=feature,
            label=label.text,
            label_source=label.source,
            peak=peak,
            mean=mean,
            tokens=tokens,
            watched=feature in watched,
        )
