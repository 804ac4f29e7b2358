"""The whole dictionary in tiles: what fires is what the publisher's library and the online engine say."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from transformers import Gemma2ForCausalLM

from conftest import HIDDEN, House, sae_arrays, save_sae
from released import RELEASES, Released
from scopewatch.config import Config
from scopewatch.engine import slabs
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.dictionary import DictionaryEngine, SegmentActivations, build_dictionary
from scopewatch.engine.slabs import Dictionary, Portions
from scopewatch.errors import EngineError, SaeError
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import write_pack
from scopewatch.sae.watched import load_watched
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, Pair, Segment, TokenisedPair, Turn

D_SAE = 66
CPU = torch.device("cpu")
PAIRS = [
    Pair("hello", "world, it may rain"),
    Pair("", "Insulin lowers blood sugar. " * 5),
    Pair("what is the answer to this question? " * 4, "perhaps"),
    Pair("and now?", "not sure", (Turn("user", "weather?"), Turn("assistant", "sunny"))),
]


def save_saelens(folder: Path, architecture: str, **cfg: object) -> Path:
    """An SAE of random weights at layer 1, as SAELens 6 lays it out."""
    rng = np.random.default_rng(3)
    names = {
        "topk": ("b_enc",),
        "gated": ("b_gate", "b_mag", "r_mag"),
    }[architecture]
    arrays = {name: rng.normal(scale=0.3, size=D_SAE).astype(np.float32) for name in names}
    whole = sae_arrays(3, d_sae=D_SAE)
    folder.mkdir(parents=True)
    save_file(arrays | {name: whole[name] for name in ("W_enc", "W_dec", "b_dec")}, folder / "sae_weights.safetensors")
    sizes = {"architecture": architecture, "d_in": HIDDEN, "d_sae": D_SAE, "apply_b_dec_to_input": True}
    metadata = {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.1"}
    (folder / "cfg.json").write_text(json.dumps(sizes | {"dtype": "float32", "metadata": metadata} | cfg))
    return folder


def saved(kind: str, folder: Path) -> Path:
    if kind == "jumprelu":
        return save_sae(folder, 1, **sae_arrays(3, d_sae=D_SAE))
    return save_saelens(folder / kind, kind, **({"k": 5} if kind == "topk" else {}))


TILE_ELEMENTS = 40
SMALL = Portions(slab=7, tile_elements=TILE_ELEMENTS, contest_elements=3 * D_SAE, kept_bytes=0)
"""Slabs of 7 features, tiles of a few tokens, and a dictionary that is read again each time."""


def build(house: House, sae: Path, portions: Portions | None = None, **settings: object) -> DictionaryEngine:
    reader = ReaderSource(path=str(house.reader))
    return build_dictionary(reader, SaeSource(path=str(sae)), Config(**settings), portions)


def tokens_of(engine: DictionaryEngine, pairs: list[Pair]) -> list[TokenisedPair]:
    tokens = engine.tokeniser.tokenise(pairs)
    assert all(isinstance(pair, TokenisedPair) for pair in tokens)
    return tokens


def dense(fired: Activations, d_sae: int = D_SAE) -> NDArray[np.float32]:
    table = np.zeros((fired.n_tokens, d_sae), np.float32)
    table[fired.token, fired.column] = fired.value
    return table


def in_order(fired: Activations) -> bool:
    return bool((np.diff(fired.token.astype(np.int64) * D_SAE + fired.column) > 0).all())


@pytest.mark.parametrize("write", RELEASES.values(), ids=RELEASES)
def test_what_fires_is_what_the_publisher_says(tmp_path: Path, write: Callable[[Path], Released]) -> None:
    """Tile by tile, every feature of every released layout fires where its publisher's library says, as strongly."""
    theirs = write(tmp_path)
    sae = open_sae(theirs.found)
    x = 1.0 + 2.5 * torch.randn(41, sae.d_in, generator=torch.Generator().manual_seed(7))
    expected = theirs.encode(x.double()).numpy()
    more, less = (theirs.encode(x.double() * (1 + sign * 1e-5)).numpy() > 0 for sign in (1, -1))

    with torch.inference_mode():
        fired = Dictionary(sae, CPU, SMALL).fired(x)
        kept = Dictionary(sae, CPU, replace(SMALL, kept_bytes=1 << 20)).fired(x)

    np.testing.assert_array_equal(dense(fired), dense(kept))
    firm, actual = more == less, dense(fired)
    assert in_order(fired)
    assert 0.99 < firm.mean()
    np.testing.assert_array_equal((expected > 0)[firm], (actual > 0)[firm])
    np.testing.assert_allclose(actual * firm, expected * firm, rtol=0, atol=1e-4 * expected.max())


def online(house: House, sae: Path, pairs: list[TokenisedPair], segment: Segment) -> list[NDArray[np.float32]]:
    """Every feature of an SAE on a segment, by the engine that serves: all are watched."""
    choice = SaeChoice("sae", SaeSource(path=str(sae)), wanted=dict.fromkeys(range(D_SAE), ""))
    engine = build_engine(ReaderSource(path=str(house.reader)), [choice], Config())
    tables = [dense(encoded) for encoded in engine.runner([pair.ids for pair in pairs]).activations]
    return [table[pair.segments == segment] for table, pair in zip(tables, pairs, strict=True)]


@pytest.mark.parametrize("segment", [Segment.RESPONSE, Segment.PROMPT, Segment.HISTORY])
@pytest.mark.parametrize("kind", ["jumprelu", "topk", "gated"])
def test_offline_and_online_are_one(house: House, tmp_path: Path, kind: str, segment: Segment) -> None:
    """On every segment the features are those the serving engine finds, whatever the rows, batches and tiles."""
    sae = saved(kind, tmp_path)
    engine = build(house, sae, replace(SMALL, batch_tokens=70), max_batch_tokens=40, max_tokens=40)
    pairs = tokens_of(engine, PAIRS)

    found = list(engine.encode(pairs, segment))

    for pair, one, expected in zip(pairs, found, online(house, sae, pairs, segment), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(pair.segments == segment), one.positions)
        np.testing.assert_allclose(dense(one.fired), expected, rtol=1e-4, atol=1e-5)


def test_the_residual_is_the_readers(house: House) -> None:
    """What is told of the segment's tokens is the untouched model's residual stream at the hookpoint."""
    engine = build(house, house.saes["mid"])
    model = Gemma2ForCausalLM.from_pretrained(house.reader, attn_implementation="eager")
    pairs = tokens_of(engine, PAIRS)

    for pair, found in zip(pairs, engine.encode(pairs, Segment.RESPONSE, features=False), strict=True):
        with torch.no_grad():
            ids = torch.from_numpy(pair.ids.astype(np.int64))[None]
            stream = model(input_ids=ids, output_hidden_states=True).hidden_states[2][0].numpy()
        assert 0 == len(found.fired.token)
        np.testing.assert_allclose(found.residual, stream[found.positions], rtol=1e-4, atol=1e-4)


def test_nothing_grows_with_tokens_and_width(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """No table that exists is larger than a tile, and together they are all tokens by all features."""
    sizes: list[int] = []
    search = slabs.what_fires
    monkeypatch.setattr(slabs, "what_fires", lambda tile, *place: (sizes.append(tile.numel()), search(tile, *place))[1])
    engine = build(house, house.saes["mid"], SMALL)

    found = list(engine.encode(tokens_of(engine, PAIRS), Segment.RESPONSE))

    assert max(sizes) <= TILE_ELEMENTS
    assert sum(len(one.positions) for one in found) * 64 == sum(sizes)


def test_one_bad_pair_does_not_fail_its_company(house: House) -> None:
    """A pair on which the reader gives NaN is an error of its own; the others of its row are what they were."""
    engine = build(house, house.saes["mid"])
    pairs = tokens_of(engine, PAIRS)
    before = list(engine.encode(pairs, Segment.RESPONSE))
    others = np.concatenate([pairs[i].ids for i in (0, 2, 3)])
    bad = next(token for token in pairs[1].ids.tolist() if token not in others)
    with torch.no_grad():
        engine._reader.model.get_input_embeddings().weight[bad] = torch.nan

    after = list(engine.encode(pairs, Segment.RESPONSE))

    assert isinstance(after[1], EngineError)
    assert "NaN" in str(after[1])
    for place in (0, 2, 3):
        assert isinstance(after[place], SegmentActivations)
        np.testing.assert_allclose(after[place].residual, before[place].residual, rtol=1e-5, atol=1e-5)


def test_an_activation_too_large_is_an_error(house: House, tmp_path: Path) -> None:
    """Finite weights whose product overflows give an error, not an infinite score."""
    huge = sae_arrays(1)["W_enc"] * np.float32(1e38)
    engine = build(house, save_sae(tmp_path, 1, W_enc=huge))

    (found,) = engine.encode(tokens_of(engine, PAIRS[:1]), Segment.RESPONSE)

    assert isinstance(found, EngineError)


def test_the_digest_tells_what_decides_the_numbers(house: House) -> None:
    """Another SAE or another limit is another digest; the same again is the same."""
    digests = [
        build(house, sae, **settings).digest
        for sae, settings in (
            (house.saes["mid"], {}),
            (house.saes["late"], {}),
            (house.saes["mid"], {"max_tokens": 64}),
        )
    ]

    assert 3 == len(set(digests))
    assert digests[0] == build(house, house.saes["mid"]).digest


def test_identity_is_that_of_the_serving_engine(house: House) -> None:
    """Reader and SAE are told as the serving engine tells them, but that no feature is watched."""
    choice = SaeChoice("sae", SaeSource(path=str(house.saes["mid"])), wanted={3: ""})
    serving = build_engine(ReaderSource(path=str(house.reader)), [choice], Config()).identity
    offline = build(house, house.saes["mid"]).identity

    assert serving.reader == offline.reader
    assert () == offline.saes[0].watched
    assert serving.saes[0].digest == offline.saes[0].digest
    assert serving.saes[0].hookpoint == offline.saes[0].hookpoint


def test_an_sae_of_another_model_is_refused(house: House, tmp_path: Path) -> None:
    """An SAE that reads vectors of another length is refused, with both lengths."""
    sae = save_sae(tmp_path, 1, **sae_arrays(0, d_in=20))

    with pytest.raises(SaeError, match=rf"vectors of 20, layers.1.resid_post of the reader has {HIDDEN}"):
        build(house, sae)


def test_a_watch_pack_is_refused(house: House, tmp_path: Path) -> None:
    """A watch pack holds a part of a dictionary, and what is wanted is all of it."""
    pack = tmp_path / "pack.safetensors"
    write_pack(load_watched(house.saes["mid"], [1, 2]), pack)

    with pytest.raises(SaeError, match="name the SAE that it was made of"):
        build(house, pack)


def test_an_sae_that_names_no_place_is_refused(house: House, tmp_path: Path) -> None:
    """Without a hookpoint in files, folders or setting it is asked for."""
    file = tmp_path / "params.npz"
    np.savez(file, **sae_arrays())

    with pytest.raises(SaeError, match=r"say the hookpoint, for instance layers\.20\.resid_post"):
        build(house, file)


def test_a_full_disk_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room to uncompress an SAE, that is the error."""

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scopewatch.sae.tensors.tempfile.NamedTemporaryFile", full)

    with pytest.raises(SaeError, match=r"params\.npz: .*No space left on device"):
        build(house, house.saes["mid"])


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20], ids=["read again", "kept"])
def test_what_is_uncompressed_is_removed(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    """Uncompressed copies are gone when the dictionary is, and at once where it stays in memory."""
    monkeypatch.setattr(slabs.tempfile, "tempdir", str(tmp_path))
    whole = Dictionary(open_sae(house.saes["mid"]), CPU, replace(SMALL, kept_bytes=kept_bytes))
    assert (kept_bytes == 0) == bool(list(tmp_path.iterdir()))

    del whole
    gc.collect()

    assert [] == list(tmp_path.iterdir())
