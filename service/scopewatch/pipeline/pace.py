"""How long the engine takes for a batch, learned from the batches that it read."""

from math import sqrt

_KEPT = 0.95
"""The weight that what was known keeps when a batch is added: the last twenty batches count."""


class Pace:
    """Predicts the seconds of a batch by its tokens: a part that every batch takes, and one for each token."""

    def __init__(self) -> None:
        self._read = _Line()
        self._computed = _Line()
        self._error = 0.1

    @property
    def known(self) -> bool:
        """Whether a batch was measured."""
        return self._read.weight > 0

    @property
    def largest_tokens(self) -> float:
        """The number of tokens of the largest batch lately."""
        return self._read.largest

    @property
    def caution(self) -> float:
        """What to multiply a prediction by so that few batches take longer: 1.1 to 2, by how wrong it was lately."""
        return 1 + min(max(3 * self._error, 0.1), 1.0)

    def learn(self, tokens: int, seconds: float, reused_tokens: int = 0) -> None:
        """Learns from a batch that was read.

        Args:
            tokens: The number of tokens in it.
            seconds: How long the engine was at it and at nothing else.
            reused_tokens: The number of those tokens that were known from earlier texts.
        """
        if predicted_s := self.seconds_for(tokens):
            self._error += (1 - _KEPT) * (abs(seconds / predicted_s - 1) - self._error)
        self._read.add(tokens, seconds)
        self._computed.add(max(1, tokens - reused_tokens), seconds)

    def warmed_up(self, tokens: int, seconds: float) -> None:
        """Takes what the warm-up took as a first idea of what a batch takes at most."""
        self._computed.add(tokens, seconds)

    def seconds_for(self, tokens: int) -> float:
        """The seconds that a batch is expected to take, where as much of it is known as of those lately.

        Of batches larger than all that were measured, the least that they can take: whether they are slower only
        reading one can tell, and who refuses them never learns.
        """
        line = self._read
        more = tokens - line.largest
        return line.at(tokens) if more <= 0 else line.at(line.largest) + line.sure_slope * more

    def tokens_at(self, share: float, most_tokens: int) -> int:
        """The least tokens of a batch that is read at this share of the rate, in tokens a second, of a large one.

        Args:
            share: The share, below 1.
            most_tokens: The number of tokens of the large batch.
        """
        line = self._read
        rate = share * most_tokens / max(line.at(most_tokens), 1e-9)
        return int(line.offset * rate / (1 - line.slope * rate))

    def at_most_s(self, tokens: int) -> float:
        """The seconds that a batch of which nothing is known would take; for large ones, rather too many."""
        line = self._computed
        return line.at(tokens) if tokens <= line.largest else line.at(line.largest) * tokens / max(1.0, line.largest)


class _Line:
    """A line through points, by least squares in which the last points weigh most; neither of its parts is negative."""

    def __init__(self) -> None:
        self.weight = 0.0
        self.largest = 0.0
        """The largest x, which is forgotten slowly."""
        self.sure_slope = 0.0
        """The slope less twice its standard error."""
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)
        self.offset = self.slope = 0.0

    def at(self, x: float) -> float:
        return self.offset + self.slope * x

    def add(self, x: float, y: float) -> None:
        self.weight = self.weight * _KEPT + 1
        self.largest = max(x, self.largest * 0.99)
        added = (x, y, x * x, x * y, y * y)
        self._sums = sums = tuple(old * _KEPT + new for old, new in zip(self._sums, added, strict=True))  # type: ignore[assignment]
        x_mean, y_mean, xx, xy, yy = (total / self.weight for total in sums)
        spread = xx - x_mean**2
        # Points of about one x say nothing of a slope; it stays, or at first makes the line go through the origin.
        varied = spread > (0.05 * x_mean) ** 2
        slope = max(0.0, xy - x_mean * y_mean) / spread if varied else self.slope
        if slope * x_mean > y_mean or not (varied or slope):
            slope = xy / xx
        self.slope, self.offset = slope, max(0.0, y_mean - slope * x_mean)
        left = max(0.0, yy - y_mean**2 - slope**2 * spread)
        self.sure_slope = max(0.0, slope - 2 * sqrt(left / spread / self.weight)) if varied else 0.0
