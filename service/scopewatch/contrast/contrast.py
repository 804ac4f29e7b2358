"""Features that differ between two corpora: yesterday's and today's traffic, two model versions, two groups of users.

Every feature is pooled over a segment of each pair. Independent corpora are compared by Mann-Whitney's test, paired
ones by Wilcoxon's, and the false discovery rate over all features tested is Benjamini and Hochberg's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scopewatch.contrast.corpora import Corpora
from scopewatch.contrast.designs import LEAST, Design, Independent, Paired, Side, one_column, stacked
from scopewatch.contrast.results import Contrast, Corpus, Difference, Wanted
from scopewatch.engine.dictionary import DictionaryEngine
from scopewatch.errors import TooLittleData
from scopewatch.identity import EngineIdentity, FeatureKey, SaeIdentity
from scopewatch.pairs.examples import Example, strongest_tokens
from scopewatch.pairs.labelled import LabelledPair, groups_of
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.pooled import PooledPairs, encode_pairs
from scopewatch.statistics.rank_tests import benjamini_hochberg
from scopewatch.statistics.ranking import auroc
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.verdicts import Label

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

LabelsOf = Callable[[EngineIdentity], Mapping[FeatureKey, Label]]
"""Given an engine that watches the features that are shown, what these features are said to mean."""

_ALIKE = (0.45, 0.55)
"""The AUROCs of the length between which lengths are alike; further away they differ clearly, if that is no chance."""
_ALPHA = 0.05
_EXAMPLES = 3


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
    tally: Tally


@dataclass(frozen=True, slots=True)
class _Finding:
    """A feature that passes its test."""

    feature: int
    up_in: Side
    p: float
    q: float


@dataclass(frozen=True, slots=True)
class _Shown:
    """The features that are shown, with what is said of them."""

    findings: list[_Finding]
    columns: NDArray[np.float32]
    """The pooled values of each feature, shape (n_pairs, n_shown)."""
    of_groups: Scores
    """The values of each feature by group, as the design has them, shape (n_groups, n_shown)."""
    examples: Mapping[int, tuple[Example, ...]]
    labels: Mapping[FeatureKey, Label]


def contrast(
    corpora: Corpora,
    dictionary: DictionaryEngine,
    wanted: Wanted,
    *,
    folder: Path,
    labels_of: LabelsOf = lambda _: {},
) -> Contrast:
    """Reads two corpora and compares every feature.

    Args:
        corpora: The two corpora; with `wanted.paired` they are equally long and in the same order.
        dictionary: The reader and the SAE.
        wanted: What is compared.
        folder: The folder in which pooled features are found and left, see `encode_pairs`.
        labels_of: Says what the features that are shown mean.

    Raises:
        TooLittleData: A corpus has fewer than `LEAST` groups.
        DataError: With `strict`, a pair that cannot be read.
    """
    read = _read(corpora, dictionary, wanted, folder)
    groups = read.design.groups(read.features)
    tested, passing = _findings(read.design, groups, wanted.fdr)
    findings = [found for side in ("a", "b") for found in [f for f in passing if f.up_in == side][: wanted.top]]
    watching = _watching(dictionary, wanted, findings)
    indices = np.array([found.feature for found in findings], np.intp)
    columns = read.features[:, indices].toarray()
    shown = _Shown(
        findings=findings,
        columns=columns,
        of_groups=groups[:, indices].toarray(),
        examples=_examples(read, findings, columns, dictionary, wanted),
        labels=labels_of(replace(dictionary.identity, saes=(watching,))),
    )
    differences = [
        (found.up_in, _difference(read, shown, place, watching.name)) for place, found in enumerate(findings)
    ]
    length_auroc = auroc(read.in_b, read.tokens)
    length_p = float(read.design.test(read.design.groups(one_column(read.tokens))).p[0])
    return Contrast(
        reader=dictionary.identity.reader.name,
        sae=watching.name,
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
        up_in_a=tuple(difference for side, difference in differences if side == "a"),
        up_in_b=tuple(difference for side, difference in differences if side == "b"),
        length_auroc=length_auroc,
        length_p=length_p,
        tally=read.tally,
        lengths_differ=not _ALIKE[0] <= length_auroc <= _ALIKE[1] and length_p <= _ALPHA,
    )


def _watching(dictionary: DictionaryEngine, wanted: Wanted, findings: Sequence[_Finding]) -> SaeIdentity:
    """The SAE as it would be if it watched the features found."""
    sae = dictionary.identity.saes[0]
    watched = tuple(sorted(found.feature for found in findings))
    return replace(sae, name=wanted.sae or sae.neuronpedia or "sae", watched=watched)


def _difference(read: _Read, shown: _Shown, place: int, sae: str) -> Difference:
    """What is said of the feature at that place among those shown."""
    found, column, of_groups = shown.findings[place], shown.columns[:, place], shown.of_groups[:, place]
    key = FeatureKey(sae, found.feature)
    label = shown.labels.get(key, Label("", ""))
    in_a, in_b = column[~read.in_b], column[read.in_b]
    return Difference(
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
        examples=shown.examples.get(found.feature, ()),
    )


def _read(corpora: Corpora, dictionary: DictionaryEngine, wanted: Wanted, folder: Path) -> _Read:
    both = (corpora.a, corpora.b)
    # Every pooling is kept, so that another one needs no second reading.
    sides = [
        encode_pairs(side, dictionary, segment=wanted.segment, folder=folder, reading=corpora.reading) for side in both
    ]
    kept = [side.tokens > 0 for side in sides]
    if wanted.paired:
        kept = [kept[0] & kept[1]] * 2
    pairs = [[side[row] for row in np.flatnonzero(here).tolist()] for side, here in zip(both, kept, strict=True)]
    groups = [groups_of(pairs[0]), groups_of(pairs[0 if wanted.paired else 1])]
    for name, own in zip("AB", groups, strict=True):
        _assert_enough(name, len(set(own)), wanted)
    rows = np.flatnonzero(np.concatenate(kept))
    # By their places, since words are swapped in pairs of the same row.
    left_out = {row.place: row for side in sides for row in side.left_out}.values()
    about_a, about_b = (_corpus(*of) for of in zip(sides, kept, groups, strict=True))
    return _Read(
        pairs=[*pairs[0], *pairs[1]],
        features=stacked([side.features(wanted.pooling) for side in sides])[rows],
        tokens=np.concatenate([side.tokens for side in sides])[rows].astype(np.float64),
        in_b=np.arange(len(rows)) >= len(pairs[0]),
        design=Paired.of(groups[0]) if wanted.paired else Independent.of(*groups),
        a=about_a,
        b=about_b,
        tally=corpora.tally.without(left_out),
    )


def _assert_enough(corpus: str, n: int, wanted: Wanted) -> None:
    if n < LEAST:
        raise TooLittleData(
            f"{corpus}: {n} groups of pairs with a {wanted.segment.name.lower()} to compare; "
            f"a comparison needs at least {LEAST}",
            n=n,
            needed=LEAST,
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
    # Ordered by effect, ten rises of ten pairs would stand before 990 of 1,000.
    order = passing[np.lexsort((-np.abs(lean[passing]), tests.p[passing]))]
    rows = zip(*(values[order].tolist() for values in (tested, lean > 0, tests.p, q)), strict=True)
    return len(tested), [_Finding(index, "b" if up else "a", p, q) for index, up, p, q in rows]


def _examples(
    read: _Read, shown: Sequence[_Finding], columns: NDArray[np.float32], dictionary: DictionaryEngine, wanted: Wanted
) -> dict[int, tuple[Example, ...]]:
    """Where each feature shown fires in the pairs, of different groups, that show its difference best.

    These pairs are read again; `columns`, shape (n_pairs, n_shown), are the pooled values of the features shown.
    """
    rows: dict[int, list[int]] = {}
    for found, column in zip(shown, columns.T, strict=True):
        for row in _clearest(read, read.design.pull(column, found.up_in)):
            rows.setdefault(row, []).append(found.feature)
    return strongest_tokens([read.pairs[row] for row in rows], list(rows.values()), dictionary, wanted.segment)


def _clearest(read: _Read, pull: Scores) -> list[int]:
    """The rows with the largest positive values, one row of each group."""
    rows: dict[str, int] = {}
    for row in np.argsort(-pull, kind="stable").tolist():
        if pull[row] <= 0 or len(rows) == _EXAMPLES:
            break
        rows.setdefault(read.pairs[row].group, row)
    return list(rows.values())
