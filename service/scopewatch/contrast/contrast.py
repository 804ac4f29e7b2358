"""Features that differ between two corpora: yesterday's and today's traffic, two model versions, two groups of users.

Every feature is pooled over a segment of each pair. Independent corpora are compared by Mann-Whitney's test, paired
ones by Wilcoxon's, and the false discovery rate over all features tested is Benjamini and Hochberg's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from scopewatch.contrast.designs import LEAST, Design, Independent, Paired, Side, one_column, stacked
from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.errors import TooLittleData
from scopewatch.pairs.examples import Example, strongest
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.pooled import POOLINGS, PooledPairs, encode_pairs
from scopewatch.statistics.rank_tests import benjamini_hochberg
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Interval, Scores
from scopewatch.types import EngineIdentity, FeatureKey, Label, Segment
from scopewatch.watch.indicators import Pooling

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

_ALIKE = (0.45, 0.55)
"""AUROC of the length; further away lengths differ clearly, if that is no chance."""
_ALPHA = 0.05
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a contrast is asked for."""

    sae: str
    """What the SAE is called in the result."""
    segment: Segment = Segment.RESPONSE
    pooling: Pooling = POOLINGS[0]
    paired: bool = False
    """Pair i of A belongs to pair i of B."""
    fdr: float = 0.05
    top: int = 30
    """Most features shown of each direction."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was read of one corpus."""

    pairs: int
    groups: int
    mean_tokens: float
    """Of the segment, that were read of a pair."""
    truncated: int
    """Pairs that did not fit the reader whole."""
    left_out: int
    """Further pairs that had nothing to compare: the segment is empty or was cut off whole, there or in its partner."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A feature that differs."""

    feature: str
    """`{sae}/{index}`"""
    effect: Interval
    """See `Contrast.effect`; of features chosen because it is large, it is on average a little too large."""
    groups: int
    """Those that tell: in which it fires, or of paired corpora those in which it differs."""
    p: float
    q: float
    """The lowest false discovery rate at which it passes."""
    mean_a: float
    mean_b: float
    """Of the pooled activations of all pairs."""
    share_a: float
    share_b: float
    """Of pairs in which it fires."""
    label: str
    label_source: str
    examples: tuple[Example, ...]
    """Of the corpus in which it is up, strongest first."""


@dataclass(frozen=True, slots=True)
class Contrast:
    """The result."""

    reader: str
    sae: str
    hookpoint: str
    segment: str
    pooling: str
    a: Corpus
    b: Corpus
    effect: Literal["auroc", "rank_biserial"]
    """auroc: probability that a random group of B has a higher mean than one of A, 0.5 where nothing differs.
    rank_biserial: of paired corpora, from -1 (the feature only falls from A to B) to 1 (it only rises)."""
    fdr: float
    d_sae: int
    tested: int
    """Features that fire often enough to tell."""
    differing: int
    """Of them, those that pass."""
    up_in_a: tuple[Difference, ...]
    """By p, the clearest first."""
    up_in_b: tuple[Difference, ...]
    length_auroc: float
    """Probability that a random pair of B has more tokens than one of A."""
    length_p: float
    lengths_differ: bool
    """Clearly: what differs may be due to that."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Both corpora, A above B, without the pairs that are left out."""

    pairs: list[LabelledPair]
    features: "csr_array"
    tokens: Scores
    in_b: Bool
    design: Design
    a: Corpus
    b: Corpus


@dataclass(frozen=True, slots=True)
class _Finding:
    feature: int
    up_in: Side
    p: float
    q: float


def contrast(
    a: Sequence[LabelledPair],
    b: Sequence[LabelledPair],
    dictionary: DictionaryEngine,
    wanted: Wanted,
    *,
    folder: Path,
    labels_of: Callable[[EngineIdentity], Mapping[FeatureKey, Label]] = lambda _: {},
) -> Contrast:
    """Reads two corpora and compares every feature.

    Args:
        a: One corpus.
        b: The other; with `wanted.paired` as long, and in the same order.
        dictionary: Reader and SAE.
        wanted: What to compare.
        folder: Where pooled features are found and left, see `encode_pairs`.
        labels_of: Given an engine that watches the features shown, what they mean.

    Raises:
        TooLittleData: A corpus has fewer than `LEAST` groups.
        DataError: A pair cannot be read, which names its line.
    """
    read = _read(a, b, dictionary, wanted, folder)
    groups = read.design.groups(read.features)
    tested, passing = _findings(read.design, groups, wanted.fdr)
    shown = [found for side in ("a", "b") for found in [f for f in passing if f.up_in == side][: wanted.top]]
    indices = np.array([found.feature for found in shown], np.intp)
    columns = read.features[:, indices].toarray()
    examples = _examples(read, shown, columns, dictionary, wanted)
    watching = replace(dictionary.identity.saes[0], name=wanted.sae, watched=tuple(sorted(indices.tolist())))
    labels = labels_of(replace(dictionary.identity, saes=(watching,)))
    differences = {
        found: Difference(
            feature=str(key),
            effect=read.design.interval(of_groups),
            groups=int(np.count_nonzero(of_groups)),
            p=found.p,
            q=found.q,
            mean_a=float(in_a.mean()),
            mean_b=float(in_b.mean()),
            share_a=float((in_a > 0).mean()),
            share_b=float((in_b > 0).mean()),
            label=label.text,
            label_source=label.source,
            examples=examples.get(found.feature, ()),
        )
        for found, column, of_groups in zip(shown, columns.T, groups[:, indices].toarray().T, strict=True)
        for key in (FeatureKey(wanted.sae, found.feature),)
        for label in (labels.get(key, Label("", "")),)
        for in_a, in_b in ((column[~read.in_b], column[read.in_b]),)
    }
    length_auroc = auroc(read.in_b, read.tokens)
    length_p = float(read.design.test(read.design.groups(one_column(read.tokens))).p[0])
    return Contrast(
        reader=dictionary.identity.reader.name,
        sae=wanted.sae,
        hookpoint=watching.hookpoint,
        segment=wanted.segment.name.lower(),
        pooling=str(wanted.pooling),
        a=read.a,
        b=read.b,
        effect=read.design.effect,
        fdr=wanted.fdr,
        d_sae=dictionary.d_sae,
        tested=tested,
        differing=len(passing),
        up_in_a=tuple(difference for found, difference in differences.items() if found.up_in == "a"),
        up_in_b=tuple(difference for found, difference in differences.items() if found.up_in == "b"),
        length_auroc=length_auroc,
        length_p=length_p,
        lengths_differ=not _ALIKE[0] <= length_auroc <= _ALIKE[1] and length_p <= _ALPHA,
    )


def _read(
    a: Sequence[LabelledPair], b: Sequence[LabelledPair], dictionary: DictionaryEngine, wanted: Wanted, folder: Path
) -> _Read:
    # Every pooling is kept, so that another one needs no second reading.
    sides = [encode_pairs(side, dictionary, segment=wanted.segment, folder=folder) for side in (a, b)]
    kept = [side.tokens > 0 for side in sides]
    if wanted.paired:
        kept = [kept[0] & kept[1]] * 2
    pairs = [[side[row] for row in np.flatnonzero(here).tolist()] for side, here in zip((a, b), kept, strict=True)]
    groups = [groups_of(pairs[0]), groups_of(pairs[0 if wanted.paired else 1])]
    for name, own in zip("AB", groups, strict=True):
        if (n := len(set(own))) < LEAST:
            raise TooLittleData(
                f"{name}: {n} groups of pairs with a {wanted.segment.name.lower()} to compare; "
                f"a comparison needs at least {LEAST}",
                n=n,
                needed=LEAST,
            )
    rows = np.flatnonzero(np.concatenate(kept))
    corpora = [_corpus(*of) for of in zip(sides, kept, groups, strict=True)]
    return _Read(
        pairs=[*pairs[0], *pairs[1]],
        features=stacked([side.features(wanted.pooling) for side in sides])[rows],
        tokens=np.concatenate([side.tokens for side in sides])[rows].astype(np.float64),
        in_b=np.arange(len(rows)) >= len(pairs[0]),
        design=Paired.of(groups[0]) if wanted.paired else Independent.of(*groups),
        a=corpora[0],
        b=corpora[1],
    )


def _corpus(read: PooledPairs, kept: Bool, groups: Sequence[str]) -> Corpus:
    return Corpus(
        pairs=len(groups),
        groups=len(set(groups)),
        mean_tokens=float(read.tokens[kept].mean()),
        truncated=int(read.truncated[kept].sum()),
        left_out=int((~kept).sum()),
    )


def _findings(design: Design, groups: "csc_array", fdr: float) -> tuple[int, list[_Finding]]:
    """How many features were tested, and those that pass, the clearest first."""
    tested = np.flatnonzero(design.testable(groups))
    if not len(tested):
        return 0, []
    tests = design.test(groups[:, tested])
    q = benjamini_hochberg(tests.p)
    lean = tests.effect - design.middle
    passing = np.flatnonzero(q <= fdr)
    # Not by effect: ten rises of ten pairs would stand before 990 of 1,000.
    order = passing[np.lexsort((-np.abs(lean[passing]), tests.p[passing]))]
    rows = zip(*(values[order].tolist() for values in (tested, lean > 0, tests.p, q)), strict=True)
    return len(tested), [_Finding(index, "b" if up else "a", p, q) for index, up, p, q in rows]


def _examples(
    read: _Read, shown: Sequence[_Finding], columns: NDArray[np.float32], dictionary: DictionaryEngine, wanted: Wanted
) -> dict[int, tuple[Example, ...]]:
    """Of each feature shown, where it fires in the pairs, of different groups, that show its difference best.

    Those pairs are read again; `columns`, shape (n_pairs, n_shown), are the pooled values.
    """
    rows: dict[int, list[int]] = {}
    for found, column in zip(shown, columns.T, strict=True):
        for row in _clearest(read, read.design.pull(column, found.up_in)):
            rows.setdefault(row, []).append(found.feature)
    return strongest([read.pairs[row] for row in rows], list(rows.values()), dictionary, wanted.segment)


def _clearest(read: _Read, pull: Scores) -> list[int]:
    """The rows with the largest positive values, one of each group."""
    rows: dict[str, int] = {}
    for row in np.argsort(-pull, kind="stable").tolist():
        if pull[row] <= 0 or len(rows) == _EXAMPLES:
            break
        rows.setdefault(read.pairs[row].group, row)
    return list(rows.values())
