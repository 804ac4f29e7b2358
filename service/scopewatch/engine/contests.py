"""Contests among an SAE's features (TopK, groupmax): which of the watched features win (decision 0054).

Every column of the dictionary is needed to decide a contest, but few contests are close. On a GPU most are therefore
decided by products of numbers rounded to bfloat16, which its tensor cores multiply many times as fast, with a bound of
their error; what the bound leaves in doubt is decided in float32.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional

from scopewatch.engine.columns import Columns
from scopewatch.sae.encoder import Contest

_CHUNK_ELEMENTS = 1 << 24
"""Pre-activations of a contest that exist at once; 64 MiB."""
_EXACT_ROWS = 256
"""Tokens that a GPU decides in float32 at once: always as many, since another number could be added up otherwise."""
_TINY = 1e-15
"""Below this norm the bound of the error would have to count numbers too small for float32."""


class Competition(torch.nn.Module):
    """The columns of an SAE whose features compete, and which of the watched features win.

    Of equal features the first wins, whatever else is in the batch; `torch.topk` takes any of them.

    Args:
        W_enc: Shape (d_in, d_sae).
        b_enc: Shape (d_sae,).
        watched: Columns of the watched features, ascending.
        threshold: For each watched feature, what its pre-activation must be above to fire at all.
        contest: Who competes with whom.
    """

    def __init__(
        self,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        watched: torch.Tensor,
        threshold: torch.Tensor,
        contest: Contest,
    ) -> None:
        super().__init__()
        self.W_enc, self.b_enc = torch.nn.Buffer(W_enc), torch.nn.Buffer(b_enc)
        self.watched, self.threshold = torch.nn.Buffer(watched), torch.nn.Buffer(threshold)
        self._columns = Columns(W_enc[:, watched], b_enc[watched])
        self._contest = contest
        self._grouped = contest.group < W_enc.shape[1]
        self._rounded: Rounded | None = None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pre-activations of the watched features, and which of them win, each (..., n).

        Args:
            x: What the encoder takes in, shape (..., d_in), float32.
        """
        if not x.is_cuda:
            return self.exactly(x)
        rows = x.reshape(-1, x.shape[-1])
        own = self._columns(rows)
        return own.view(*x.shape[:-1], -1), self.decide(rows, own).view(*x.shape[:-1], -1)

    # In float32.

    def exactly(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same, decided by float32 products with all columns.

        The dictionary is multiplied in chunks; of a chunk only its watched columns and its greatest pre-activations are
        kept.
        """
        watched: list[torch.Tensor] = []
        if self._grouped:
            wins = []
            for pre, here in self._chunks(x):
                watched.append(pre[..., here])
                first = pre.reshape(*pre.shape[:-1], -1, self._contest.group).argmax(dim=-1)
                wins.append(first[..., here // self._contest.group] == here % self._contest.group)
            return torch.cat(watched, dim=-1), torch.cat(wins, dim=-1)
        winners = self._contest.winners
        best = x.new_empty((*x.shape[:-1], 0))
        for pre, here in self._chunks(x):
            watched.append(pre[..., here])
            running = torch.cat([best, pre], dim=-1)
            # One more than can win: whether it equals the last of the winners.
            best = running.topk(min(winners + 1, running.shape[-1]), dim=-1).values
        of_watched = torch.cat(watched, dim=-1)
        if best.shape[-1] <= winners:
            return of_watched, torch.ones_like(of_watched, dtype=torch.bool)
        least = best[..., winners - 1 : winners]
        if not ((best[..., winners:] == least) & (least > 0)).any():
            return of_watched, of_watched >= least
        return of_watched, self._first_of_equal(x, least, left=winners - (best > least).sum(-1, keepdim=True))

    def _first_of_equal(self, x: torch.Tensor, least: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """Which watched features are above the last place of a contest, or get one of the places that are left."""
        wins: list[torch.Tensor] = []
        before = torch.zeros_like(left)
        for pre, here in self._chunks(x):
            equal = pre == least
            place = before + equal.cumsum(dim=-1, dtype=torch.int32)
            wins.append(((pre > least) | (equal & (place <= left)))[..., here])
            before = place[..., -1:]
        return torch.cat(wins, dim=-1)

    def _chunks(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The dictionary's pre-activations by some columns at a time, and which of these columns are watched."""
        for columns, here in self._parts(x[..., 0].numel()):
            yield x @ self.W_enc[:, columns] + self.b_enc[columns], here

    def _parts(self, rows: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """Neighbouring columns that so many rows are multiplied with at once, and which of these are watched."""
        group = self._contest.group if self._grouped else 1
        step = max(1, _CHUNK_ELEMENTS // max(1, rows) // group) * group
        for start in range(0, self.W_enc.shape[1], step):
            stop = min(start + step, self.W_enc.shape[1])
            yield slice(start, stop), self.watched[(self.watched >= start) & (self.watched < stop)] - start

    # By bounds.

    def decide(self, x: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Which watched features win and fire, as `exactly` decides it, (tokens, n).

        Args:
            x: Shape (tokens, d_in), float32.
            own: Pre-activations of the watched features, shape (tokens, n).
        """
        wins, doubtful = self.surely(x, own)
        for tokens in torch.split(torch.nonzero(doubtful)[:, 0], _EXACT_ROWS):
            rows = functional.pad(x[tokens], (0, 0, 0, _EXACT_ROWS - len(tokens)))
            wins[tokens] = self.exactly(rows)[1][: len(tokens)]
        return wins & (own > self.threshold)

    def surely(self, x: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which watched features surely win and fire, (tokens, n), and on which tokens others might, (tokens,)."""
        if self._rounded is None or self._rounded.W_enc.device != x.device:
            self._rounded = Rounded(self.W_enc, self.b_enc)
        slack = self._rounded.slack(x, self.watched)
        least, most = self._in_groups(x) if self._grouped else self._last_place(x)
        wins = (own - slack > most) & (own > self.threshold)
        # What is no number is in doubt, and what is not above its threshold never fires.
        doubtful = ~(own <= self.threshold) & ~wins & ~(own + slack < least)
        return wins, doubtful.any(-1) | ~self._rounded.bounds(x)

    def _last_place(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between which numbers the last winner's pre-activation lies, each (tokens, 1)."""
        least = most = x.new_empty((len(x), 0))
        for pre, error, _ in self._bounded_chunks(x):
            best = pre.topk(min(self._contest.winners, pre.shape[1]), dim=-1).values
            least, most = self._best_of(least, best - error), self._best_of(most, best + error)
        return least[:, -1:], most[:, -1:]

    def _best_of(self, before: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        """The greatest of two parts of a row, as many as win, the greatest first."""
        both = torch.cat([before, more], dim=-1)
        return both.topk(min(self._contest.winners, both.shape[1]), dim=-1).values

    def _in_groups(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between which numbers the strongest rival of each watched feature lies, each (tokens, n)."""
        group = self._contest.group
        least, most = [], []
        for pre, error, here in self._bounded_chunks(x):
            for column in here.tolist():
                first = column - column % group
                rivals = pre[:, first : first + group].clone()
                rivals[:, column - first] = -torch.inf
                best = rivals.amax(dim=-1, keepdim=True)
                least.append(best - error)
                most.append(best + error)
        return torch.cat(least, dim=-1), torch.cat(most, dim=-1)

    def _bounded_chunks(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Rounded pre-activations chunk by chunk, (tokens, columns), how far they may be off, (tokens, 1), and which of
        the columns are watched.
        """
        rounded = self._rounded
        assert rounded
        for columns, here in self._parts(len(x)):
            if len(here) or not self._grouped:
                yield rounded.product(x, columns) + self.b_enc[columns], rounded.error(x, columns), here


class Rounded:
    """A dictionary rounded to bfloat16, and how far a product with it may be off.

    With u = 2^-8, rounding both vectors changes x·w by at most (2u + u^2) |x||w|. Tensor cores add exact products up in
    float32, but cut off where others round: each of d additions errs by at most 2^-22 of the sum of the magnitudes
    (measured by Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science
    7, 2021). A float32 product errs by at most d 2^-24 of it, in any order of sums (Higham, Accuracy and Stability of
    Numerical Algorithms, 3.1). The sum of magnitudes is at most |x||w|. All are taken a hundredth larger, for the
    rounding of the norms and for higher powers.

    Args:
        W_enc: Shape (d_in, d_sae).
        b_enc: Shape (d_sae,).
    """

    def __init__(self, W_enc: torch.Tensor, b_enc: torch.Tensor) -> None:
        self.W_enc = W_enc.to(torch.bfloat16)
        self._norms: torch.Tensor = torch.linalg.vector_norm(W_enc, dim=0).clamp(min=_TINY)
        self._biases = b_enc.abs()
        u, d_in = 2**-8, len(W_enc)
        self._exact = 1.01 * (d_in + 1) * 2**-24
        self._coefficient = 1.01 * (2 * u + u**2 + d_in * 2**-22) + 2 * self._exact

    def product(self, x: torch.Tensor, columns: slice) -> torch.Tensor:
        """The product of (tokens, d_in), rounded, with some columns, in float32."""
        rounded, columns_of = x.to(torch.bfloat16), self.W_enc[:, columns]
        if x.is_cuda:
            return torch.mm(rounded, columns_of, out_dtype=torch.float32)
        return rounded.float() @ columns_of.float()

    def error(self, x: torch.Tensor, columns: slice) -> torch.Tensor:
        """How far pre-activations of some columns may be from what float32 products give, (tokens, 1)."""
        return self._coefficient * _norms(x) * self._norms[columns].max() + 2**-22 * self._biases[columns].max()

    def slack(self, x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """How far two float32 products with given columns may be from each other, (tokens, n)."""
        return 2 * self._exact * _norms(x) * self._norms[columns] + 2**-22 * self._biases[columns]

    def bounds(self, x: torch.Tensor) -> torch.Tensor:
        """On which tokens the bounds hold, (tokens,): not where squares are too large or too small for float32."""
        norms = _norms(x)[:, 0]
        return torch.isfinite(norms) & (norms > _TINY)


def _norms(x: torch.Tensor) -> torch.Tensor:
    norms: torch.Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norms
