"""Dense probes: a direction and a bias on file, read by the engine on every token like a feature that always fires."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from transformers import Gemma2ForCausalLM

from conftest import HIDDEN, House, covered, engine_identity
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice, choices
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.pipeline.cached_value import CachedValues
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import load_reader
from scopewatch.reader.prefixes import BLOCK
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack, write_probe
from scopewatch.sae.watched import load_watched
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations
from scopewatch.watch.indicators import PROBE
from scopewatch.watch.watchlist import load_watchlist

LAYER = 1
FEATURES = [3, 11, 40]
Ids = NDArray[np.int32]
Dense = NDArray[np.float64]

IDENTITY = engine_identity(some=(0, 1, 2, 3, 4))


def numbers(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """n directions, as columns, and their biases."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(HIDDEN, n)).astype(np.float32), rng.normal(size=n).astype(np.float32)


def save(file: Path, n: int = 2, *, hookpoint: str = f"layers.{LAYER}.resid_post") -> Path:
    write_probe(file, *numbers(n), hookpoint=hookpoint, origin={"data": "hedges.jsonl"})
    return file


def residuals(directory: Path, batch: Sequence[Ids]) -> list[Dense]:
    """After layer LAYER, from the whole untouched model, each text read alone."""
    model = Gemma2ForCausalLM.from_pretrained(directory, attn_implementation="eager")
    with torch.no_grad():
        found = [
            model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True) for ids in batch
        ]
    return [one.hidden_states[LAYER + 1][0].double().numpy() for one in found]


def dense(encoded: Activations | Exception, columns: int) -> Dense:
    assert isinstance(encoded, Activations), encoded
    table = np.zeros((encoded.n_tokens, columns))
    table[encoded.token, encoded.column] = encoded.value
    return table


def engine(house: House, probe: Path, **settings: object) -> Engine:
    """An SAE and two probes at one hookpoint."""
    asked = [
        SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), dict.fromkeys(FEATURES, "")),
        SaeChoice("hedging", SaeSource(path=str(probe)), {0: "", 1: ""}),
    ]
    return build_engine(ReaderSource(path=str(house.reader)), asked, Config(**settings))


def a_batch(*, shared: int = 0) -> list[Ids]:
    """Texts whose first `shared` tokens are the same."""
    rng = np.random.default_rng(4)
    start = rng.integers(6, 500, shared)
    return [np.append(start, rng.integers(6, 500, length)).astype(np.int32) for length in (30, 1, 17)]


@pytest.mark.parametrize("prefix_bytes", [0, 1 << 24])
def test_a_probe_gives_a_number_on_every_token(house: House, tmp_path: Path, prefix_bytes: int) -> None:
    """Beside an SAE at its hookpoint: `x . direction + bias` of the untouched model's residuals, negative ones too,
    with beginnings read anew or kept from the pass before.
    """
    running = engine(house, save(tmp_path / "p.safetensors"), prefix_cache_bytes=prefix_bytes)
    batch = a_batch(shared=2 * BLOCK)
    direction, bias = (array.astype(np.float64) for array in numbers(2))
    expected = [x @ direction + bias for x in residuals(house.reader, batch)]
    alone = build_engine(
        ReaderSource(path=str(house.reader)),
        [SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), dict.fromkeys(FEATURES, ""))],
        Config(),
    )
    features = [dense(one, 3) for one in alone.runner(batch).activations]

    for _ in range(3):
        encoded = running.runner(batch)
        assert (prefix_bytes > 0) == (encoded.reused_tokens > 0)
        for probed, fired, one in zip(expected, features, encoded.activations, strict=True):
            table = dense(one, 5)
            np.testing.assert_allclose(table[:, 3:], probed, rtol=0, atol=1e-5 * np.abs(probed).max())
            np.testing.assert_allclose(table[:, :3], fired, rtol=1e-4, atol=1e-4)
    assert min(map(np.min, expected)) < -1
    assert ["mid/3", "mid/11", "mid/40", "hedging/0", "hedging/1"] == list(map(str, running.identity.features))


def test_a_gated_neighbour_does_not_clip_a_probe(house: House, tmp_path: Path) -> None:
    """Beside an SAE whose features have magnitudes of their own, which are never negative, a probe still is."""
    reader = load_reader(house.reader, name="r", revision="", deepest_layer=LAYER, device="cpu", dtype="float32")
    plain = open_sae(house.saes["mid"]).encoder(FEATURES)
    gated = replace(plain, scale=np.ones(3, np.float32), offset=np.zeros(3, np.float32))
    probe = load_watched(save(tmp_path / "p.safetensors"), [0, 1]).encoder
    batch = a_batch()

    with_gated, with_plain = (
        [
            dense(one, 5)
            for one in Runner(
                reader, [PlacedEncoder(Hookpoint(LAYER), encoder) for encoder in (one, probe)], row_tokens=512
            )(batch).activations
        ]
        for one in (gated, plain)
    )

    for here, there in zip(with_gated, with_plain, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)
    assert min(map(np.min, with_gated)) < -1


def test_what_a_probe_gives_can_be_cached(house: House, tmp_path: Path) -> None:
    """Negative numbers come back from a stored value as they went in."""
    (encoded,) = engine(house, save(tmp_path / "p.safetensors")).runner(a_batch()[:1]).activations
    assert isinstance(encoded, Activations)
    key = bytes(32)

    values = CachedValues(IDENTITY.reader, b"")
    again = values.load(key, values.dump(key, covered(encoded, IDENTITY)), encoded.n_tokens).activations

    assert encoded.value.min() < 0
    np.testing.assert_array_equal(dense(encoded, 5), dense(again, 5))


# Files.


def watchlist(house: House, probe: Path, feature: str) -> Path:
    file = probe.parent / "watchlist.yaml"
    indicator = {"name": "hedging", "kind": "probe", "features": [{"feature": feature, "pooling": "mean"}]}
    document = {
        "version": 1,
        "name": "test",
        "reader": {"path": str(house.reader)},
        "saes": {"hedging": {"path": probe.name}},
        "indicators": [indicator | {"threshold": 0.0}],
    }
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_watchlist_names_a_probe_as_it_names_an_sae(house: House, tmp_path: Path) -> None:
    """Path and index are all it takes; the hookpoint is the file's."""
    file = watchlist(house, save(tmp_path / "p.safetensors"), "hedging/0")

    (sae,) = build_engine(*choices([load_watchlist(file)]), Config()).identity.saes

    assert (PROBE, f"layers.{LAYER}.resid_post") == (sae.architecture, sae.hookpoint)
    assert (HIDDEN, 2, (0,)) == (sae.d_in, sae.d_sae, sae.watched)


def test_a_probe_that_is_not_there_is_named(house: House, tmp_path: Path) -> None:
    """An index beyond a file's probes is refused at the line that asks for it."""
    file = watchlist(house, save(tmp_path / "p.safetensors", 1), "hedging/1")

    with pytest.raises(
        SaeError, match=r"watchlist.yaml:\d+: .*there is no feature 1 in the watch pack .*p.safetensors"
    ):
        build_engine(*choices([load_watchlist(file)]), Config())
    with pytest.raises(NoSuchFeature):
        load_watched(tmp_path / "p.safetensors", [1])


def test_one_direction_may_be_a_vector(tmp_path: Path) -> None:
    """A vector is a probe like a matrix of one column, down to the digest."""
    direction, bias = numbers(1)
    for name, written in (("vector", direction[:, 0]), ("column", direction)):
        write_probe(tmp_path / f"{name}.safetensors", written, bias, hookpoint="layers.1", origin={})
    vector, column = (load_watched(tmp_path / f"{name}.safetensors", [0]) for name in ("vector", "column"))

    assert is_pack(tmp_path / "vector.safetensors")
    assert vector.digest == column.digest
    assert direction.tolist() == vector.encoder.W_enc.tolist() == column.encoder.W_enc.tolist()
    assert bias.tolist() == vector.encoder.b_enc.tolist()


def test_a_probe_is_identified_by_its_numbers(tmp_path: Path) -> None:
    """Another bias makes another probe; where it came from is kept beside."""
    direction, bias = numbers(2)
    for name, shift in (("a", 0.0), ("b", 1.0)):
        write_probe(tmp_path / f"{name}.safetensors", direction, bias + shift, hookpoint="layers.1", origin={"by": "x"})
    a, b = (load_watched(tmp_path / f"{name}.safetensors", [0]) for name in ("a", "b"))

    assert a.digest != b.digest
    assert {"by": "x"} == a.origin


@pytest.mark.parametrize(
    ("direction", "bias", "told"),
    [
        (np.ones((HIDDEN, 2), np.float32), np.ones(1, np.float32), "2 directions and 1 biases"),
        (np.ones(HIDDEN, np.float32), np.ones(2, np.float32), "1 directions and 2 biases"),
        (np.full(HIDDEN, np.nan, np.float32), np.ones(1, np.float32), "must be finite"),
        (np.ones(HIDDEN, np.float32), np.full(1, np.inf, np.float32), "must be finite"),
    ],
)
def test_what_is_no_probe_is_not_written(
    direction: NDArray[np.float32], bias: NDArray[np.float32], told: str, tmp_path: Path
) -> None:
    """Shapes that do not fit and numbers that are none are refused, and no file is left."""
    with pytest.raises(SaeError, match=told):
        write_probe(tmp_path / "p.safetensors", direction, bias, hookpoint="layers.1", origin={})

    assert [] == list(tmp_path.iterdir())


def test_inspect_shows_a_probe_and_verify_refuses_it(
    house: House, tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_as_it_was: None
) -> None:
    """The command line says what the file is, and that there is no decoder to check it by."""
    probe = str(save(tmp_path / "p.safetensors"))
    with pytest.raises(SystemExit) as shown:
        main(["sae", "inspect", probe, "--json"])
    told = json.loads(capsys.readouterr().out)
    with pytest.raises(SystemExit) as refused:
        main(["sae", "verify", "--reader", str(house.reader), "--sae", probe])

    assert 0 == shown.value.code
    assert (PROBE, f"layers.{LAYER}.resid_post") == (told["architecture"], told["hookpoint"])
    assert (2, [0, 1], {"data": "hedges.jsonl"}) == (told["d_sae"], told["packed_features"], told["origin"])
    assert 2 == refused.value.code
    assert f"{probe}: a watch pack, or a probe, has no decoder to check it by" in capsys.readouterr().err
