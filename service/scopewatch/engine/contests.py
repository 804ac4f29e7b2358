"""Contests among an SAE's features (TopK, groupmax): which of the watched features win (decision 0054).

Every column of the dictionary is needed to decide a contest, but few contests are close. On a GPU most are therefore
decided by products of numbers rounded to bfloat16, which its tensor cores multiply many times as fast, with a bound of
their error. Where that leaves doubt, columns that are near the edge are multiplied in float32, and all columns only
where equals or nearly equals have to be told apart.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn import functional

from scopewatch.engine.columns import Columns
from scopewatch.engine.rounded import Rounded
from scopewatch.sae.encoder import Contest

_CHUNK_ELEMENTS = 1 << 24
"""Pre-activations of a contest that exist at once; 64 MiB."""
_EXACT_ROWS = 256
"""Tokens that a GPU decides in float32 at once: always as many, since another number could be added up otherwise."""
_CANDIDATES = 2048
"""Columns of one chunk that may be near the last place; where there are more, all are multiplied."""


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
        wins, doubtful, least = self.surely(x, own)
        left = torch.nonzero(doubtful)[:, 0]
        if not self._grouped and len(left):
            parts = [
                self._by_candidates(x[tokens], own[tokens], least[tokens]) for tokens in torch.split(left, _EXACT_ROWS)
            ]
            wins[left], doubtful = (torch.cat(both) for both in zip(*parts, strict=True))
            left = left[doubtful]
        for tokens in torch.split(left, _EXACT_ROWS) if len(left) else ():
            rows = functional.pad(x[tokens], (0, 0, 0, _EXACT_ROWS - len(tokens)))
            wins[tokens] = self.exactly(rows)[1][: len(tokens)]
        return wins & (own > self.threshold)

    def surely(self, x: torch.Tensor, own: torch.Tensor) -> "_Sure":
        """Decides what rounded products are sure of; arguments as of `decide`."""
        if self._rounded is None or self._rounded.W_enc.device != x.device:
            # Column by column, as single columns are read.
            self.W_enc = torch.nn.Buffer(self.W_enc.T.contiguous().T)
            self._rounded = Rounded(self.W_enc, self.b_enc)
        slack = self._rounded.slack(x, self.watched)
        least, most = self._in_groups(x) if self._grouped else self._last_place(x)
        wins = (own - slack > most) & (own > self.threshold)
        # What is no number is in doubt, and what is not above its threshold never fires.
        doubtful = ~(own <= self.threshold) & ~wins & ~(own + slack < least)
        return _Sure(wins, doubtful.any(-1) | ~self._rounded.bounds(x), least)

    def _last_place(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between which numbers the last winner's pre-activation lies, each (tokens, 1)."""
        least = most = x.new_empty((len(x), 0))
        for pre, error, _ in self._bounded_chunks(x):
            best = pre.topk(min(self._contest.winners, pre.shape[1]), dim=-1).values
            least, most = self._best_of(least, best - error), self._best_of(most, best + error)
        return least[:, -1:], most[:, -1:]

    def _by_candidates(
        self, x: torch.Tensor, own: torch.Tensor, least: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `surely`, by float32 products with those columns alone that can be near the last place.

        Returns:
            Which features win, (tokens, n), and which tokens are still in doubt, (tokens,).
        """
        rounded = self._rounded
        assert rounded
        near = self._candidates(x, least)
        slack, value = rounded.slack(x, self.watched), self._pre_of(x, near.token, near.column)
        off = rounded.slack_of(x, near.token, near.column)[:, None]
        other = near.column[:, None] != self.watched
        above = other & (value[:, None] - off > (own + slack)[near.token])
        perhaps = other & (value[:, None] + off >= (own - slack)[near.token])
        counts = own.new_zeros((2, *own.shape), dtype=torch.int32)
        for count, which in zip(counts, (above, perhaps), strict=True):
            count.index_add_(0, near.token, which.int())
        wins = counts[1] < self._contest.winners
        doubtful = ~(own <= self.threshold) & ~wins & ~(counts[0] >= self._contest.winners)
        return wins, doubtful.any(-1) | near.crowded | ~rounded.bounds(x)

    def _candidates(self, x: torch.Tensor, least: torch.Tensor) -> "_Candidates":
        """The columns that may win, as far as is known, or be as strong as a winner within float32's rounding."""
        rounded = self._rounded
        assert rounded
        floor = least - 2 * rounded.slack(x, rounded.strongest).sum(-1, keepdim=True)
        crowded = ~rounded.bounds(x)
        found = []
        first = 0
        for pre, error, _ in self._bounded_chunks(x):
            near = pre + error >= floor
            crowded |= near.sum(-1) > _CANDIDATES
            found.append(torch.nonzero(near & ~crowded[:, None]) + pre.new_tensor([0, first], dtype=torch.int64))
            first += pre.shape[1]
        token, column = torch.cat(found).T
        return _Candidates(token, column, crowded)

    def _pre_of(self, x: torch.Tensor, token: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Pre-activations of single tokens and columns, in float32."""
        at_once = max(1, _CHUNK_ELEMENTS // len(self.W_enc))
        pairs = zip(torch.split(token, at_once), torch.split(column, at_once), strict=True)
        sums = [torch.einsum("pd,pd->p", x[tokens], self.W_enc.T[columns]) for tokens, columns in pairs]
        return torch.cat(sums) + self.b_enc[column]

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


class _Sure(NamedTuple):
    """What rounded products are sure of."""

    wins: torch.Tensor
    """Which watched features surely win and fire, (tokens, n)."""
    doubtful: torch.Tensor
    """On which tokens others might, (tokens,)."""
    least: torch.Tensor
    """The least that the last winner, or a feature's strongest rival, may have; (tokens, 1 or n)."""


class _Candidates(NamedTuple):
    """Columns that may have won, of some tokens."""

    token: torch.Tensor
    """Shape (pairs,)."""
    column: torch.Tensor
    """Shape (pairs,)."""
    crowded: torch.Tensor
    """On which tokens they are too many, and not told; shape (tokens,)."""
