"""How a detector does on each source of the pairs: what does well on all of them may do nothing on one."""

from collections.abc import Mapping, Sequence

import numpy as np

from scopewatch.statistics.ranking import auroc_interval
from scopewatch.statistics.scores import Bool, Interval, Scores


def source_aurocs(labels: Bool, scores: Scores, groups: Sequence[str], sources: Sequence[str]) -> dict[str, Interval]:
    """The AUROC on each source that has both labels, by its name; empty where there is one source only.

    Args:
        labels: The label of each of the n pairs.
        scores: The score of each pair.
        groups: The group of each pair.
        sources: The source of each pair.
    """
    members, names = np.array(groups, object), np.array(sources, object)
    rows = {name: np.flatnonzero(names == name) for name in sorted(set(sources))}
    return {
        name: auroc_interval(labels[mine], scores[mine], members[mine].tolist())
        for name, mine in rows.items()
        if len(rows) > 1 and len(set(labels[mine].tolist())) > 1
    }


def at_chance(aurocs: Mapping[str, Interval]) -> list[str]:
    """A sentence for each source that is ranked no better than by chance, given the AUROC on each."""
    return [
        f"At chance on source {name}: AUROC {found.value:.3f} ({found.low:.3f} to {found.high:.3f})."
        for name, found in aurocs.items()
        if found.low <= 0.5
    ]
