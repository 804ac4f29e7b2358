"""Of features that are equally strong at the edge of a TopK or groupmax contest, the first win: everywhere the same."""

import numpy as np
import pytest
import torch

from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.slabs import Dictionary, Portions
from scopewatch.sae.encoder import Contest, Encoder
from scopewatch.sae.open import open_sae
from scopewatch.sae.weights import Sae
from scopewatch.sources import FoundSae

D_IN, D_SAE, K = 5, 48, 6


@pytest.fixture(scope="module")
def sae(tmp_path_factory: pytest.TempPathFactory) -> Sae:
    """An SAE of small whole numbers, whose pre-activations are exact in float32 and often equal."""
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("sae") / f"SAE-Res-m-W1K-L0_{K}" / "layer3.sae.pt"
    file.parent.mkdir()
    shapes = {"W_enc": (D_SAE, D_IN), "W_dec": (D_IN, D_SAE), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
    numbers = {name: torch.from_numpy(rng.integers(-1, 2, shape).astype(np.float32)) for name, shape in shapes.items()}
    torch.save(numbers, file)
    return open_sae(FoundSae(file))


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    """Activations of whole numbers; the last are 0, where every feature of one bias is equal."""
    found = torch.from_numpy(np.random.default_rng(1).integers(-2, 3, (40, D_IN)).astype(np.float32))
    found[-2:] = 0
    return found


def formula(sae: Sae, x: torch.Tensor) -> np.ndarray:
    """TopK in float64: by pre-activation, then by index, the first K; what is above 0 of these fires."""
    assert sae.b_enc is not None
    pre = x.double().numpy() @ sae.W_enc.read().astype(np.float64) + sae.b_enc.read()
    fired = np.zeros_like(pre)
    for token, row in enumerate(pre):
        winners = np.lexsort((np.arange(len(row)), -row))[:K]
        fired[token, winners] = np.maximum(row[winners], 0)
    return fired


def test_there_are_ties_to_decide(sae: Sae, x: torch.Tensor) -> None:
    """On most of these tokens, as many features as win are not told apart by their strength."""
    assert sae.b_enc is not None
    pre = np.sort(x.numpy() @ sae.W_enc.read() + sae.b_enc.read(), axis=1)[:, ::-1]

    assert 20 < ((pre[:, K - 1] == pre[:, K]) & (pre[:, K] > 0)).sum()


@pytest.mark.parametrize("elements", [1, 150, 1 << 24])
@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_as_many_as_k_fire_and_the_first_of_equals(
    sae: Sae, x: torch.Tensor, elements: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many tokens are encoded together and however the dictionary is parted, it is the formula to the bit."""
    monkeypatch.setattr("scopewatch.engine.contests._CHUNK_ELEMENTS", elements)
    encoder = HookpointEncoder([sae.encoder(range(D_SAE))])
    found = torch.cat([encoder(part) for part in x.split(tokens)])

    np.testing.assert_array_equal(formula(sae, x), found.numpy())


def test_watching_a_few_or_all_is_one(sae: Sae, x: torch.Tensor) -> None:
    """Watched features win where the whole dictionary says so, online and offline."""
    watched = [0, 3, 17, 30, 47]
    few = HookpointEncoder([sae.encoder(watched)])(x)
    fired = Dictionary(sae, torch.device("cpu"), Portions(slab=8, contest_elements=100, kept_bytes=0)).fired(x)
    whole = np.zeros((len(x), D_SAE))
    whole[fired.token, fired.column] = fired.value

    np.testing.assert_array_equal(formula(sae, x)[:, watched], few.numpy())
    np.testing.assert_array_equal(formula(sae, x), whole)


@pytest.mark.parametrize("elements", [1, 1 << 24])
def test_the_first_of_equals_wins_its_group(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groupmax fires one feature of a group, as `torch.max` chooses it."""
    monkeypatch.setattr("scopewatch.engine.contests._CHUNK_ELEMENTS", elements)
    encoder = Encoder(
        normalise="none",
        W_enc=np.array([[1, 2, 2, 1, 0, 0]], np.float32),
        b_enc=np.array([0, 0, 0, 0, 1, 1], np.float32),
        threshold=np.zeros(6, np.float32),
        watched=np.arange(6),
        contest=Contest(group=3, winners=1),
    )
    found = HookpointEncoder([encoder])(torch.tensor([[1.0], [-1.0]]))

    assert [[0, 2, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]] == found.tolist()


def test_equals_of_nothing_are_silent(sae: Sae) -> None:
    """Where nothing is above 0 nothing fires, however many are equal; NaN stays NaN."""
    encoder = HookpointEncoder([sae.encoder(range(D_SAE))])
    x = torch.zeros(2, D_IN)
    x[1, 0] = torch.nan

    assert int((encoder(x)[0] != 0).sum()) <= K
    assert encoder(x)[1].isnan().all()
