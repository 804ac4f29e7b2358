"""Copies and near-copies among pairs, whatever groups the file gives them.

A detector that is tested on a copy of what it learnt from looks better than it is, and copies are no independent pairs
when a rate is bounded. So the groups of copies are joined before anything is split, and become one group.

Two pairs are copies if all their texts are equal but for case, punctuation, spaces and what Unicode calls compatible
(NFKC), and near-copies if this is nearly so of the text that is judged, and that text is long enough not to be said
twice by chance. Nearly: of the pieces of eight letters that occur in either text, at least seven tenths occur in both
(Jaccard), estimated by MinHash (Broder 1997), whose signatures are compared where one of sixteen bands is equal.
"""

import re
import unicodedata
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scopewatch.errors import DataError
from scopewatch.pairs.data_files import PairsRead
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import LeftOut
from scopewatch.statistics.scores import Rows
from scopewatch.types import Pair

try:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
except ImportError:
    raise DataError("calibration needs SciPy: pip install 'scopewatch[calibration]'") from None

_LEAST_LETTERS = 50
"""A shorter text may be said twice by chance: "No, it is not." is a copy only together with its prompt."""
_PIECE = 8
_ALIKE = 0.7
_HASHES, _BANDS = 64, 16
_DRAW = np.random.default_rng(0)
_FACTORS, _ADDENDS = _DRAW.integers(1 << 63, size=(2, _HASHES, 1), dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_POWERS = np.uint64(0x9E3779B97F4A7C15) ** np.arange(_PIECE, dtype=np.uint64)
_NO_LETTER = re.compile(r"[\W_]+")


def join_copies(read: PairsRead, segment: str) -> PairsRead:
    """Joins the groups that hold copies, or near-copies, of each other's pairs; a joint group has one of their names.

    Args:
        read: The pairs of all files.
        segment: The text that is judged: `response`, `prompt` or `history`.

    Returns:
        The pairs with their joint groups, without those that the file wants fitted while a copy is held out; the tally
        says how many copies there are, and how many texts carry both labels.
    """
    pairs = read.pairs
    cluster, group = clusters(pairs, segment), _first([item.group.strip().lower() for item in pairs])
    n = len(pairs)
    _, joint = connected_components(coo_array((np.ones(n), (group, cluster + n)), shape=(2 * n, 2 * n)), directed=False)
    members: dict[int, list[LabelledPair]] = {}
    for number, item in zip(joint[group].tolist(), pairs, strict=True):
        members.setdefault(number, []).append(item)
    whole = {number: _whole(found) for number, found in members.items() if len({item.group for item in found}) > 1}
    kept, left_out = [], []
    for number, item in zip(joint[group].tolist(), pairs, strict=True):
        name, side = whole.get(number, (item.group, item.split))
        if item.split == "fit" and side == "held_out":
            left_out.append(LeftOut(item.place, "copy_of_held_out", "split holds a copy of it out"))
        else:
            kept.append(replace(item, group=name, split=side))
    notes = (*_parted(cluster, group), *_contradictory(pairs))
    return PairsRead(kept, read.tally.without(left_out).noting(*notes))


def without_copies(train: PairsRead, pairs: Sequence[LabelledPair], segment: str) -> PairsRead:
    """The pairs to learn from that are no copies, or near-copies, of the pairs that are to be measured.

    Args:
        train: The pairs to learn from.
        pairs: The pairs to be measured.
        segment: The text that is judged: `response`, `prompt` or `history`.

    Raises:
        NothingUsable: All are copies.
    """
    cluster = clusters([*pairs, *train.pairs], segment)
    copies = np.isin(cluster[len(pairs) :], cluster[: len(pairs)]).tolist()
    left_out = [
        LeftOut(item.place, "copy_of_measured", "a pair that is measured is a copy of it")
        for item, is_copy in zip(train.pairs, copies, strict=True)
        if is_copy
    ]
    tally = train.tally.without(left_out).need("--train", "name other files, or leave --train out")
    return PairsRead([item for item, is_copy in zip(train.pairs, copies, strict=True) if not is_copy], tally)


def clusters(pairs: Sequence[LabelledPair], segment: str) -> Rows:
    """The number of each pair's cluster, shape (n_pairs,): copies and near-copies share one.

    Args:
        pairs: Pairs.
        segment: The text that is judged: `response`, `prompt` or `history`.
    """
    texts = [_letters(_read(item.pair, segment)) for item in pairs]
    said, equal = _first(texts), _first([_all_texts(item.pair) for item in pairs])
    long = np.array([len(text) >= _LEAST_LETTERS for text in texts], bool)
    every = np.arange(len(pairs))
    distinct = np.flatnonzero(long & (said == every))
    near = distinct[_near_copies([texts[row] for row in distinct.tolist()])]
    edges = np.concatenate([np.stack([every, equal]), np.stack([every[long], said[long]]), near], axis=1)
    graph = coo_array((np.ones(edges.shape[1]), edges), shape=(len(pairs),) * 2)
    numbers: Rows = connected_components(graph, directed=False)[1]
    return numbers


def _near_copies(texts: Sequence[str]) -> Rows:
    """The places of texts that are near-copies of each other, shape (2, n): neighbours of all that share a band."""
    signatures = np.empty((len(texts), _HASHES), np.uint32)
    for row, text in enumerate(texts):
        signatures[row] = _signature(text)
    found = [np.empty((2, 0), np.intp)]
    for band in np.split(signatures, _BANDS, axis=1):
        keys = (band * _POWERS[: band.shape[1]]).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        one, other = order[:-1], order[1:]
        same = keys[one] == keys[other]
        one, other = one[same], other[same]
        alike = (signatures[one] == signatures[other]).mean(axis=1) >= _ALIKE
        found.append(np.stack([one[alike], other[alike]]))
    return np.concatenate(found, axis=1)


def _signature(text: str) -> NDArray[np.uint32]:
    """The least of each hash over the text's pieces, shape (n_hashes,); two texts agree in as large a share of these as
    they share pieces. The hashes multiply and shift (Dietzfelbinger et al. 1997).
    """
    letters = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64)
    pieces = np.unique(np.lib.stride_tricks.sliding_window_view(letters, _PIECE) @ _POWERS)
    least: NDArray[np.uint32] = ((pieces * _FACTORS + _ADDENDS) >> np.uint64(32)).min(axis=1).astype(np.uint32)
    return least


def _read(pair: Pair, segment: str) -> str:
    """The text of a segment."""
    if segment == "history":
        return "\n".join(turn.content for turn in pair.history)
    return pair.prompt if segment == "prompt" else pair.response


def _all_texts(pair: Pair) -> tuple[object, ...]:
    """What two pairs have in common that are copies of each other whatever is read."""
    texts = [*(turn.content for turn in pair.history), pair.prompt, pair.response]
    return (*(_letters(text) or text for text in texts), pair.prompt_token_ids, pair.response_token_ids)


def _letters(text: str) -> str:
    """The text's letters and digits, words parted by one space."""
    return _NO_LETTER.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _first(values: Sequence[Hashable]) -> Rows:
    """The place of the first value that equals each, shape (n,)."""
    seen: dict[Hashable, int] = {}
    return np.array([seen.setdefault(value, place) for place, value in enumerate(values)], np.intp)


def _whole(members: Sequence[LabelledPair]) -> tuple[str, str]:
    """The name and the side of a group that is made of several; held out wins, so that it stays unseen."""
    sides = {item.split for item in members}
    return min(item.group for item in members), next(side for side in ("held_out", "fit", "") if side in sides)


def _parted(cluster: Rows, group: Rows) -> Iterator[str]:
    """The sentence that says how many pairs have a copy in another group, if any has."""
    n_groups = np.bincount(np.unique(np.stack([cluster, group]), axis=1)[0], minlength=len(cluster))
    if n := int((n_groups[cluster] > 1).sum()):
        yield (
            f"{n:,} pairs are copies or near-copies of pairs in other groups; these groups count as one, so that no "
            "copy is on the other side of the split."
        )


def _contradictory(pairs: Sequence[LabelledPair]) -> Iterator[str]:
    """The sentence that says how many texts carry both labels, if any does."""
    labels: dict[tuple[object, ...], set[int | None]] = {}
    for item in pairs:
        labels.setdefault(_all_texts(item.pair), set()).add(item.label)
    if n := sum({0, 1} <= found for found in labels.values()):
        yield f"{n:,} texts carry both labels: what is learnt of one copy is wrong of the other; keep the right one."
