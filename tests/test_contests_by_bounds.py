"""Contests that a GPU decides by rounded products and a bound of their error: what it decides is what float32 decides.

The tensor cores' part is played by rounding to bfloat16 here, and by errors as large as the bound allows.
"""

import math

import numpy as np
import pytest
import torch

from scopewatch.engine.contests import Competition, Rounded
from scopewatch.sae.encoder import Contest

D_IN, D_SAE, TOKENS = 48, 480, 300
WATCHED = np.array([0, 1, 7, 8, 95, 96, 200, 250, 251, 252, 333, 400, 478, 479])
CONTESTS = {"topk": Contest(D_SAE, 12), "all win": Contest(D_SAE, D_SAE + 5), "groups": Contest(24, 1)}


def dictionary(bias: float = -0.05) -> tuple[torch.Tensor, torch.Tensor]:
    """Random directions of several lengths."""
    made = torch.Generator().manual_seed(0)
    W_enc = torch.randn(D_IN, D_SAE, generator=made) / D_IN**0.5
    lengths = torch.exp(0.2 * torch.randn(D_SAE, generator=made))
    return W_enc * lengths, bias + 0.02 * torch.randn(D_SAE, generator=made)


def a_competition(contest: Contest, bias: float = -0.05, threshold: float = 0.0) -> Competition:
    W_enc, b_enc = dictionary(bias)
    watched = torch.from_numpy(WATCHED)
    return Competition(W_enc, b_enc, watched, torch.full((len(watched),), threshold), contest)


def activations(kind: str) -> torch.Tensor:
    made = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, D_IN, generator=made)
    if kind == "sparse":
        # Sums of a few features, as a TopK SAE is trained to find.
        W_enc, _ = dictionary()
        firing = torch.rand(TOKENS, D_SAE, generator=made) < 8 / D_SAE
        return (firing * torch.rand(TOKENS, D_SAE, generator=made)) @ W_enc.T + 0.01 * x
    return x * torch.exp(2 * torch.randn(TOKENS, D_IN, generator=made)) if kind == "heavy tails" else x


def in_float32(competition: Competition, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pre-activations of the watched features, and which of them win and fire."""
    own, wins = competition.exactly(x)
    return own, wins & (own > competition.threshold)


@pytest.mark.parametrize("elements", [1 << 12, 1 << 24])
@pytest.mark.parametrize("kind", ["sparse", "normal", "heavy tails"])
@pytest.mark.parametrize("name", list(CONTESTS))
def test_rounded_products_decide_what_float32_decides(
    name: str, kind: str, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of sparse, of random and of heavy-tailed activations, however the dictionary is parted."""
    monkeypatch.setattr("scopewatch.engine.contests._CHUNK_ELEMENTS", elements)
    competition, x = a_competition(CONTESTS[name]), activations(kind)
    own, expected = in_float32(competition, x)

    assert torch.equal(expected, competition.decide(x, own))
    assert 0 < int(expected.sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["topk", "groups"])
def test_errors_as_large_as_the_bound_change_nothing(name: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that are off by the bound in the worst direction: winners too small, losers too large, or at random."""
    competition, x = a_competition(CONTESTS[name]), activations("sparse")
    own, expected = in_float32(competition, x)
    made = torch.Generator().manual_seed(seed)
    part = 0.999 * (torch.randint(0, 2, (1, D_SAE), generator=made) * 2 - 1)
    if seed == 0:
        strong = (x @ competition.W_enc + competition.b_enc).topk(12, dim=-1).indices
        part = torch.full((TOKENS, D_SAE), 0.999).scatter_(1, strong, -0.999)

    def off(self: Rounded, rows: torch.Tensor, columns: slice) -> torch.Tensor:
        exact = rows.double() @ competition.W_enc[:, columns].double()
        return (exact + part[:, columns] * self.error(rows, columns)).float()

    monkeypatch.setattr(Rounded, "product", off)

    assert torch.equal(expected, competition.decide(x, own))
    # Errors far beyond it would: the decision does depend on these products.
    part = 200 * part
    assert not torch.equal(expected, competition.decide(x, own))


def test_the_bound_holds_and_most_contests_are_sure() -> None:
    """No rounded pre-activation is off by more than its bound, and of sparse activations few are left to float32."""
    competition, x = a_competition(CONTESTS["topk"]), activations("sparse")
    rounded, every = Rounded(competition.W_enc, competition.b_enc), slice(0, D_SAE)
    off = (rounded.product(x, every).double() - x.double() @ competition.W_enc.double()).abs()
    own, _ = in_float32(competition, x)

    assert (off <= rounded.error(x, every)).all()
    assert off.max() > 0.02 * rounded.error(x, every).max()
    assert 0 < competition.surely(x, own)[1].double().mean() < 0.5


@pytest.mark.parametrize("name", list(CONTESTS))
def test_what_no_bound_holds_for_is_left_to_float32(name: str) -> None:
    """Numbers that are not finite, too large or too small to be squared, and nothing at all."""
    competition, x = a_competition(CONTESTS[name], bias=0.05), activations("normal")[:16]
    for row, number in enumerate([math.nan, math.inf, -math.inf, 1e30, 1e-30, 0.0]):
        x[row] = x[row] * number
        x[6 + row, 0] = number
    own, expected = in_float32(competition, x)

    assert torch.equal(expected, competition.decide(x, own))


@pytest.mark.parametrize("name", ["topk", "groups"])
def test_equals_and_few_above_zero(name: str) -> None:
    """The first of equals wins; where fewer are above 0 than may win, all of these fire, and a threshold is heard."""
    made = torch.Generator().manual_seed(2)
    whole = torch.randint(-1, 2, (TOKENS, D_IN), generator=made).float()
    equal = a_competition(CONTESTS[name])
    equal.W_enc.copy_(torch.randint(-1, 2, (D_IN, D_SAE), generator=made))
    equal.b_enc.zero_()
    for competition, x in (
        (equal, whole),
        (a_competition(CONTESTS[name], bias=-1.5), activations("sparse") * 2),
        (a_competition(CONTESTS[name], threshold=0.6), activations("sparse")),
    ):
        own, expected = in_float32(competition, x)

        assert torch.equal(expected, competition.decide(x, own))
        assert 0 < int(expected.sum())


def test_float32_always_decides_as_many_tokens_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are in doubt: with another number of rows a product might be added up otherwise."""
    competition, x = a_competition(CONTESTS["topk"]), activations("normal")
    own, expected = in_float32(competition, x)
    exactly, rows = competition.exactly, []

    def counted(some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows.append(len(some))
        return exactly(some)

    monkeypatch.setattr("scopewatch.engine.contests._EXACT_ROWS", 32)
    monkeypatch.setattr(competition, "exactly", counted)

    assert torch.equal(expected, competition.decide(x, own))
    assert set(rows) == {32}
