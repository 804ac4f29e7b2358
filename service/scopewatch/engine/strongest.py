"""The greatest values of rows that are known only some columns at a time: exact, and of equal values the first."""

import torch

_LAST = (1 << 32) - 1


class Strongest:
    """The k greatest values of each row among those above 0, the greatest first; of equal ones the lower column.

    A value above 0 and its column are one whole number: the value's bits, which are ordered as values are, then the
    column counted backwards. No two are equal, so that it does not matter which of equals `torch.topk` takes.

    Args:
        rows: The number of rows.
        k: How many values are kept of each.
        device: Where the values are.
    """

    def __init__(self, rows: int, k: int, device: torch.device) -> None:
        self._keys = torch.zeros((rows, k), dtype=torch.int64, device=device)

    def add(self, values: torch.Tensor, first: int, rows: slice = slice(None)) -> torch.Tensor:
        """Lets more columns compete.

        Args:
            values: Shape (n, columns), float32.
            first: The number of the first of these columns.
            rows: The n rows that the values are of.

        Returns:
            For each that is kept now its place among those kept before and, behind them, these; shape (n, k).
        """
        columns = torch.arange(_LAST - first, _LAST - first - values.shape[1], -1, device=values.device)
        keys = (values.clamp(min=0).view(torch.int32).long() << 32) | columns
        best = torch.cat([self._keys[rows], keys], dim=1).topk(self._keys.shape[1], dim=1)
        self._keys[rows] = best.values
        return best.indices

    def holds(self, first: int, count: int, rows: slice) -> torch.Tensor:
        """Which of some neighbouring columns are among those that are kept.

        Args:
            first: The number of the first of them.
            count: The number of columns.
            rows: The n rows that are asked about.

        Returns:
            Shape (n, count).
        """
        columns = self.columns[rows] - first
        elsewhere = (columns < 0) | (columns >= count)
        held = torch.zeros((len(columns), count + 1), dtype=torch.bool, device=columns.device)
        return held.scatter_(1, columns.masked_fill(elsewhere, count), value=True)[:, :count]

    @property
    def values(self) -> torch.Tensor:
        """Shape (rows, k), float32; 0 where fewer are above 0."""
        return (self._keys >> 32).int().view(torch.float32)

    @property
    def columns(self) -> torch.Tensor:
        """Shape (rows, k), int64; -1 where fewer are above 0."""
        return torch.where(self.values > 0, _LAST - (self._keys & _LAST), -1)
