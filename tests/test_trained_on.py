"""What an SAE was trained on: BOS, tokens that were left out, and activations that were too large to count."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from conftest import HIDDEN, House
from released import RELEASES
from scopewatch.acceptance.inspection import inspect
from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.engine.encoder import HookpointEncoder, median_norms
from scopewatch.engine.watching import assert_bos, assert_excluded
from scopewatch.errors import SaeError
from scopewatch.sae.encoder import Training
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import part_of_pack, write_pack
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.watched import PackFolder, load_watched
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, Segment

D_SAE = 64


def with_metadata(path: Path, **metadata: Any) -> Path:
    file = path / "cfg.json"
    cfg = json.loads(file.read_text())
    cfg["metadata"] |= metadata
    file.write_text(json.dumps(cfg))
    return path


# BOS.


@pytest.mark.parametrize("said", [True, False, None])
def test_bos_is_known_wherever_the_sae_goes(tmp_path: Path, said: bool | None) -> None:
    """What the settings say of BOS reaches what is watched, from files, from a pack folder and from a pack."""
    path = with_metadata(RELEASES["saelens standard"](tmp_path).path, prepend_bos=said)
    packs, pack = PackFolder(tmp_path / "packs"), tmp_path / "p.safetensors"
    made, found = load_watched(path, [3], packs=packs), load_watched(path, [3], packs=packs)
    write_pack(made, pack)

    assert said is made.training.prepend_bos is found.training.prepend_bos
    assert said is part_of_pack(pack, [3]).training.prepend_bos
    assert said is inspect(path).prepend_bos is inspect(pack).prepend_bos


def test_bos_of_settings_before_version_6_is_known(tmp_path: Path) -> None:
    """Flat settings say it as the later ones do; where they do not, nobody does."""
    path = RELEASES["saelens before 6"](tmp_path).path
    silent = open_sae(path).training.prepend_bos
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(cfg | {"prepend_bos": False}))

    assert (None, False) == (silent, open_sae(path).training.prepend_bos)


@pytest.mark.parametrize(
    ("said", "reads", "has", "told"),
    [
        (False, True, True, "say bos: never under reader:"),
        (True, False, True, "say bos: always under reader:"),
        (True, True, True, ""),
        (False, False, True, ""),
        (False, False, False, ""),
        (None, True, True, ""),
        (None, False, False, ""),
        (True, False, False, ""),
    ],
)
def test_a_reader_that_begins_texts_otherwise_is_refused(said: bool | None, reads: bool, has: bool, told: str) -> None:
    """With BOS where the SAE had none, or without where it had, the mend is named; the operator's word goes before."""
    training = Training(prepend_bos=said)
    if told:
        with pytest.raises(SaeError, match=told):
            assert_bos(training, bos="files", reads_bos=reads, has_bos=has)
    else:
        assert_bos(training, bos="files", reads_bos=reads, has_bos=has)
    for decided in ("always", "never"):
        assert_bos(training, bos=decided, reads_bos=reads, has_bos=has)


def test_a_tokenizer_without_bos_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no BOS to put first, the log says so and nothing is refused."""
    with caplog.at_level(logging.WARNING):
        assert_bos(Training(prepend_bos=True), bos="files", reads_bos=False, has_bos=False)

    assert "the reader's tokenizer has no BOS token" in caplog.text


def test_a_bos_that_is_no_flag_is_refused(tmp_path: Path) -> None:
    """A setting that cannot be understood is not taken for unsaid."""
    path = with_metadata(RELEASES["saelens standard"](tmp_path).path, prepend_bos="yes")
    with pytest.raises(SaeError, match=r"metadata\.prepend_bos is 'yes'; expected true or false"):
        open_sae(path)


# Tokens that were left out.


def test_excluded_tokens_have_to_be_special_ones(tmp_path: Path) -> None:
    """Special tokens never count; a token that texts are made of would, and is named."""
    path = with_metadata(RELEASES["saelens standard"](tmp_path).path, exclude_special_tokens=[1, 2, 198])
    training = load_watched(path, [3]).training
    assert_excluded(training, {1, 2, 198, 199})

    assert (1, 2, 198) == training.excluded_tokens == inspect(path).excluded_tokens
    with pytest.raises(SaeError, match="of these 198 are no special tokens of the reader"):
        assert_excluded(training, {1, 2})


@pytest.mark.parametrize("said", [True, False, None])
def test_excluding_all_special_tokens_asks_for_nothing(tmp_path: Path, said: bool | None) -> None:
    """Which tokens are special the reader knows itself."""
    path = with_metadata(RELEASES["saelens standard"](tmp_path).path, exclude_special_tokens=said)

    assert () == open_sae(path).training.excluded_tokens


@pytest.mark.parametrize("said", ["bos", [1.5], [True], [-1], 3])
def test_excluded_tokens_that_are_none_are_refused(tmp_path: Path, said: object) -> None:
    """A list of anything but token ids is refused by name."""
    path = with_metadata(RELEASES["saelens standard"](tmp_path).path, exclude_special_tokens=said)
    with pytest.raises(SaeError, match=r"exclude_special_tokens is .*; expected true, false or a list of token ids"):
        open_sae(path)


def test_a_rescaling_that_was_not_folded_is_refused(tmp_path: Path) -> None:
    """SAELens rescales by decoder norms in TopK alone; elsewhere such a setting would be ignored."""
    path = RELEASES["saelens jumprelu"](tmp_path).path
    cfg = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(cfg | {"rescale_acts_by_decoder_norm": True}))
    with pytest.raises(SaeError, match="rescale_acts_by_decoder_norm is True; expected false"):
        open_sae(path)


# Activations that were too large to count.


def dictionary_learning(folder: Path, multiple: float | None, *, place: str = "buffer", layer: int = 1) -> Path:
    """A ReLU SAE of that library in the size of the house's reader."""
    rng = np.random.default_rng(3)
    home = folder / f"resid_post_layer_{layer}" / "trainer_0"
    home.mkdir(parents=True)
    arrays = {
        "encoder.weight": rng.normal(size=(D_SAE, HIDDEN)),
        "encoder.bias": rng.normal(size=D_SAE),
        "decoder.weight": rng.normal(size=(HIDDEN, D_SAE)),
        "decoder.bias": rng.normal(size=HIDDEN),
    }
    torch.save({name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}, home / "ae.pt")
    trainer = {"dict_class": "AutoEncoderNew", "layer": layer, "submodule_name": f"resid_post_layer_{layer}"}
    config: dict[str, dict[str, Any]] = {"trainer": trainer, "buffer": {"io": "out"}}
    if multiple is not None:
        config[place]["max_activation_norm_multiple"] = multiple
    (home / "config.json").write_text(json.dumps(config))
    return home


@pytest.mark.parametrize("place", ["buffer", "trainer"])
def test_a_bound_of_norms_is_part_of_what_the_sae_is(tmp_path: Path, place: str) -> None:
    """Digest, inspection and pack tell it; an SAE whose settings say nothing has none."""
    bounded = dictionary_learning(tmp_path / "a", 10, place=place)
    plain = dictionary_learning(tmp_path / "b", None)
    pack = tmp_path / "p.safetensors"
    write_pack(load_watched(bounded, [3, 5]), pack)

    assert (10.0, None) == (inspect(bounded).max_norm_multiple, inspect(plain).max_norm_multiple)
    assert "max_norm_multiple=10.0" == open_sae(bounded).recipe
    assert 10.0 == part_of_pack(pack, [5]).encoder.max_norm_multiple == inspect(pack).max_norm_multiple
    assert inspect(pack).digest == inspect(bounded).digest


@pytest.mark.parametrize("multiple", [0, -1, "ten", True])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, multiple: Any) -> None:
    """A bound that would silence everything, or is no number, is refused by name."""
    with pytest.raises(SaeError, match="max_activation_norm_multiple is"):
        open_sae(dictionary_learning(tmp_path, multiple))


def test_nothing_fires_on_tokens_beyond_the_bound(tmp_path: Path) -> None:
    """By the formula in float64: texts side by side each have their own median, of two the lower, and the bound holds."""
    sae = open_sae(dictionary_learning(tmp_path, 3))
    plain = open_sae(dictionary_learning(tmp_path / "plain", None))
    rng = np.random.default_rng(0)
    lengths = [6, 1, 9]
    x = rng.normal(size=(18, HIDDEN)) * np.array([1] * 6 + [50] + [5] * 9 + [1, 1])[:, None]
    x[[2, 11]] *= [[3.5], [30]]
    x = x.astype(np.float32)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    median = np.concatenate(
        [np.full(len(part), np.sort(part)[(len(part) - 1) // 2]) for part in np.split(norms, np.cumsum(lengths))]
    )
    expected = HookpointEncoder([plain.encoder(range(D_SAE))])(torch.from_numpy(x)).numpy()
    expected[norms > 3 * median] = 0
    both = HookpointEncoder([sae.encoder(range(D_SAE)), plain.encoder([3, 7])])
    found = both(torch.from_numpy(x), median_norms(torch.from_numpy(x), lengths)).numpy()

    assert [2, 11] == np.flatnonzero(norms > 3 * median).tolist()
    np.testing.assert_allclose(found[:, :D_SAE], expected, rtol=1e-5)
    assert found[:, D_SAE:][[2, 11]].any()


def test_an_overflow_beyond_the_bound_is_no_silence(tmp_path: Path) -> None:
    """An activation that is not finite is NaN, not a token that is too loud."""
    sae = open_sae(dictionary_learning(tmp_path, 3))
    x = torch.randn(5, HIDDEN)
    x[2, 4] = torch.inf

    assert HookpointEncoder([sae.encoder([1, 2])])(x)[2].isnan().all()


TEXTS = ("a bright day by the sea", "one two three four five six seven", "x", "a bright day by the sea and then " * 12)


def test_online_and_offline_leave_out_the_same_tokens(house: House, tmp_path: Path) -> None:
    """Batches, beginnings that texts share and whole dictionaries: a token is beyond the bound of its text or not."""
    reader = ReaderSource(path=str(house.reader))
    # So low a bound leaves out many tokens of a random reader.
    path = dictionary_learning(tmp_path, 1.05)
    wanted = [3, 11, 40]
    choice = SaeChoice("sae", SaeSource(path=str(path)), wanted=dict.fromkeys(wanted, ""))
    engine = build_engine(reader, [choice], Config())
    pairs = [Pair("what is it like?", text) for text in TEXTS]
    tokens = list(engine.tokeniser.tokenise(pairs))
    assert all(not isinstance(one, Exception) for one in tokens)
    ids = [one.ids for one in tokens]
    alone = [engine.runner([one]).activations[0] for one in ids]
    # Read again and again, beginnings would be known by now.
    for _ in range(3):
        together = engine.runner([*ids, *ids]).activations
        for one, other in zip([*alone, *alone], together, strict=True):
            assert (one.token.tolist(), one.column.tolist()) == (other.token.tolist(), other.column.tolist())
            np.testing.assert_allclose(one.value, other.value, rtol=1e-4, atol=1e-5)

    plain = SaeChoice("sae", SaeSource(path=str(dictionary_learning(tmp_path / "b", None))), wanted=choice.wanted)
    every = [build_engine(reader, [plain], Config()).runner([one]).activations[0] for one in ids]
    left, whole = (sum(len(one.token) for one in found) for found in (alone, every))
    assert 0 < left < 0.9 * whole

    offline = build_dictionary(reader, SaeSource(path=str(path)), Config())
    for segment in (Segment.PROMPT, Segment.RESPONSE):
        for one, online, heard in zip(tokens, alone, offline.encode(tokens, segment), strict=True):
            assert not isinstance(heard, Exception)
            mine = np.isin(heard.fired.column, wanted)
            inside = one.segments[online.token] == segment
            features = np.array(wanted)[online.column[inside]]
            where = heard.positions[heard.fired.token[mine]]
            assert list(zip(online.token[inside], features, strict=True)) == list(
                zip(where, heard.fired.column[mine], strict=True)
            )


def test_a_pack_of_an_earlier_version_says_nothing(tmp_path: Path) -> None:
    """Packs that people made before training was told of are read as they were."""
    pack = tmp_path / "p.safetensors"
    write_pack(load_watched(dictionary_learning(tmp_path, 10), [3]), pack)
    arrays, facts = load_file(pack), json.loads(open_safetensors(pack).metadata["scopewatch_pack"])
    del facts["training"], facts["max_norm_multiple"]
    save_file(arrays, pack, {"scopewatch_pack": json.dumps(facts)})
    opened = load_watched(pack, [3])

    assert (None, Training()) == (opened.encoder.max_norm_multiple, opened.training)


# The reader that an SAE is put on.


def saelens_of_house(folder: Path, **metadata: Any) -> Path:
    """An SAE in SAELens' form that fits the readers of these tests."""
    folder.mkdir()
    made = {"hook_name": "blocks.1.hook_resid_post", "model_name": "m", "sae_lens_version": "6.1"}
    cfg = {"architecture": "standard", "d_in": HIDDEN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
    cfg |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "metadata": made | metadata}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    rng = np.random.default_rng(3)
    shapes = {"W_enc": (HIDDEN, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, HIDDEN), "b_dec": (HIDDEN,)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(arrays, folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("whole", [False, True], ids=["watched", "whole dictionary"])
def test_a_reader_is_asked_how_its_texts_begin(house: House, tmp_path: Path, whole: bool) -> None:
    """An SAE trained without BOS is refused on a reader whose template writes one, until the watchlist decides."""
    sae = SaeSource(path=str(saelens_of_house(tmp_path / "sae", prepend_bos=False)))

    def build(**rendering: Any) -> object:
        reader = ReaderSource(path=str(house.reader), **rendering)
        if whole:
            return build_dictionary(reader, sae, Config(device="cpu"))
        return build_engine(reader, [SaeChoice("x", sae, {3: "a.yaml:9"}, asked_by="a.yaml:5")], Config(device="cpu"))

    with pytest.raises(SaeError, match=r"prepend_bos: false.*say bos: never under reader:") as refused:
        build()
    build(bos="never")
    build(bos="always")

    assert whole or str(refused.value).startswith("a.yaml:5: ")


def test_tokens_left_out_of_training_must_not_count(house: House, tmp_path: Path) -> None:
    """A token of texts that the SAE never saw is named."""
    sae = SaeSource(path=str(saelens_of_house(tmp_path / "sae", exclude_special_tokens=[1, 200])))

    with pytest.raises(SaeError, match="of these 200 are no special tokens of the reader"):
        build_dictionary(ReaderSource(path=str(house.reader)), sae, Config(device="cpu"))
