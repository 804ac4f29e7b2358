"""What features wrote into the reader on one pair, and edits that take it out, or as much in random directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch

from scopewatch.engine.encoder import denormalising_factor
from scopewatch.engine.heard import Heard
from scopewatch.engine.whole import WholeDictionary
from scopewatch.errors import SaeError
from scopewatch.reader.hookpoints import Change, Hookpoint
from scopewatch.types import Activations, Float32, Indices

Edits = Mapping[Hookpoint, Change]


class Written:
    """What some features of one SAE wrote on the n tokens of a pair, m of them.

    Args:
        dictionary: The SAE.
        features: Their indices, shape (m,).
        values: Their activations on the pair, shape (n, m).
        heard: The pair where the SAE reads and where it writes.
    """

    def __init__(self, dictionary: WholeDictionary, features: Indices, values: torch.Tensor, heard: Heard) -> None:
        assert dictionary.writes
        sae = dictionary.sae
        self.place = dictionary.writes
        """Where it was written."""
        self.there = heard.activations[dictionary.writes].norm(dim=1)
        """The norms of the activations there, shape (n,)."""
        self._sae = sae
        self._features = features
        self._values = values
        if sae.denormalises:
            self._values = values * denormalising_factor(heard.activations[dictionary.reads], sae.normalise)
        self.sum = self._values @ self._rows(features)
        """What they wrote together, shape (n, d_out)."""

    def in_place_of_it(self, random: np.random.Generator) -> torch.Tensor:
        """The same activations with the decoder rows of other features, as long on every token; shape (n, d_out).

        Args:
            random: Draws the features.

        Raises:
            SaeError: There are not enough other features.
        """
        other = self._values @ self._drawn(random)
        wanted, there = self.sum.norm(dim=1, keepdim=True), other.norm(dim=1, keepdim=True)
        return other * torch.where(there > 0, wanted / there, 0.0)

    def _drawn(self, random: np.random.Generator) -> torch.Tensor:
        """The decoder rows of m other features that write anything at all, shape (m, d_out)."""
        m = len(self._features)
        others = random.permutation(np.setdiff1d(np.arange(self._sae.d_sae), self._features))
        found = torch.empty((0, self._sae.d_out), device=self.sum.device)
        for start in range(0, len(others), m):
            rows = self._rows(others[start : start + m])
            found = torch.cat([found, rows[rows.norm(dim=1) > 0]])
            if len(found) >= m:
                return found[:m]
        raise SaeError(f"{self._sae.files[0]}: has too few other features to hold {m} of them against")

    def _rows(self, features: Indices) -> torch.Tensor:
        """Decoder rows in the order of some features, shape (features, d_out)."""
        ascending, order = np.unique(features, return_inverse=True)
        W_dec = torch.from_numpy(self._sae.decoder(ascending).W_dec[order])
        if not torch.isfinite(W_dec).all():
            raise SaeError(f"{self._sae.files[0]}: its decoder holds NaN or infinity; download it again")
        return W_dec.to(self._values.device)


@dataclass(frozen=True, slots=True)
class TakenOut:
    """What is taken out of the reader on the n tokens of a pair."""

    sums: Mapping[Hookpoint, torch.Tensor]
    """By place, shape (n, width)."""
    share: float
    """||what is taken out|| / ||activation there||, the mean over the tokens and places where anything is; or 0."""

    def edits(self, lengths: Sequence[int]) -> list[Edits]:
        """What flows on instead in each window.

        Args:
            lengths: The number of tokens of each window.
        """
        places = [slice(start, stop) for start, stop in pairwise(accumulate(lengths, initial=0))]
        return [{place: _less(total[here]) for place, total in self.sums.items()} for here in places]


def taken_out(written: Sequence[Written], seed: int | None) -> TakenOut:
    """What is taken out for some SAEs' features.

    Args:
        written: What each of the SAEs wrote.
        seed: None takes out just that; a number, as much of other features, drawn by it.

    Raises:
        SaeError: There are not enough other features.
    """
    random = None if seed is None else np.random.default_rng(seed)
    sums: dict[Hookpoint, torch.Tensor] = {}
    there: dict[Hookpoint, torch.Tensor] = {}
    for one in written:
        total = one.sum if random is None else one.in_place_of_it(random)
        sums[one.place] = sums[one.place] + total if one.place in sums else total
        there[one.place] = one.there
    shares = [total.norm(dim=1) / there[place] for place, total in sums.items()]
    anything = torch.cat([share[share > 0] for share in shares]) if shares else torch.empty(0)
    return TakenOut(sums, float(anything.mean()) if len(anything) else 0.0)


def values_of(read: Activations, columns: Sequence[int]) -> Float32:
    """The activations of some columns on every token, shape (n_tokens, columns)."""
    dense = np.zeros((read.n_tokens, len(columns)), np.float32)
    for number, column in enumerate(columns):
        here = read.column == column
        dense[read.token[here], number] = read.value[here]
    return dense


def _less(total: torch.Tensor) -> Change:
    """Takes something out of a window's activations, shape (1, tokens, width); what fills up the row stays."""

    def change(activations: torch.Tensor) -> torch.Tensor:
        changed = activations.clone()
        tokens = slice(0, len(total))
        changed[0, tokens] = (activations[0, tokens].float() - total).to(activations.dtype)
        return changed

    return change
