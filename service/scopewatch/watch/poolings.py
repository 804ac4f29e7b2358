"""Poolings, as a watchlist holds them: how activations on a segment's tokens become one number."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from scopewatch.sources import Strict

_POOLING_ARGUMENTS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # kind: (required, optional)
    "max": (frozenset(), frozenset()),
    "mean": (frozenset(), frozenset()),
    "sum": (frozenset(), frozenset()),
    "fraction_active": (frozenset(), frozenset()),
    "rolling_mean_max": (frozenset({"window"}), frozenset()),
    "k_of_n": (frozenset({"k"}), frozenset({"n"})),
    "last": (frozenset(), frozenset({"n"})),
    "sentence_end": (frozenset({"over"}), frozenset()),
}


class Pooling(Strict):
    """How a feature's activations on the n tokens of a segment become one number.

    max: largest. mean: average over all tokens. sum: total. fraction_active: share of tokens above 0.
    rolling_mean_max: largest mean over `window` consecutive tokens (over all when the segment is shorter).
    k_of_n: largest value that at least `k` of some `n` consecutive tokens reach (`n` omitted: of all), so that a
    threshold of t asks for k tokens above t; 0 when there are fewer than k tokens.
    last: average over the last `n` tokens (`n` omitted: the last one).
    sentence_end: mean or max, as `over` says, of the tokens that end sentences (`scopewatch.sentences`).
    """

    kind: Literal["max", "mean", "sum", "fraction_active", "rolling_mean_max", "k_of_n", "last", "sentence_end"]
    window: int | None = Field(None, ge=1, le=4096)
    k: int | None = Field(None, ge=1, le=4096)
    n: int | None = Field(None, ge=1, le=4096)
    over: Literal["mean", "max"] | None = None

    @model_validator(mode="after")
    def _arguments_fit(self) -> Self:
        required, optional = _POOLING_ARGUMENTS[self.kind]
        given = set(self._given)
        if missing := required - given:
            raise ValueError(f"pooling {self.kind} needs {', '.join(sorted(missing))}")
        if extra := given - required - optional:
            raise ValueError(f"pooling {self.kind} takes no {', '.join(sorted(extra))}")
        if self.k and self.n and self.k > self.n:
            raise ValueError(f"k_of_n asks for k={self.k} of only n={self.n} tokens")
        return self

    @property
    def _given(self) -> dict[str, int | str]:
        """The arguments, by name."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self._given.items())
        return f"{self.kind}({given})" if given else self.kind


def _pooling_from_word(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


PoolingField = Annotated[Pooling, BeforeValidator(_pooling_from_word)]
