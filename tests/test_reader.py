"""Loading a reader: what is read of it, what is refused, and in which words."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2ForCausalLM

from conftest import House, gemma_config, save_reader
from families import weight_count
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice, choices
from scopewatch.engine.token_activations import token_activations
from scopewatch.errors import ConfigError, ReaderError, SaeError, SetupError, WatchlistError
from scopewatch.identity import FeatureKey
from scopewatch.reader.find import find_reader
from scopewatch.reader.linear import multiplies_bfloat16
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.watchlist import load_watchlist

WEIGHTS = "model.safetensors"


@pytest.fixture
def reader(house: House, tmp_path: Path) -> Path:
    """A reader directory of its own, to be damaged."""
    return shutil.copytree(house.reader, tmp_path / "reader")


def load(directory: Path, *, deepest_layer: int = 1, device: str = "cpu", dtype: str = "float32") -> Reader:
    return load_reader(directory, name="r", revision="", deepest_layer=deepest_layer, device=device, dtype=dtype)


def build(house: House, directory: Path, **settings: object) -> Engine:
    choice = SaeChoice("mid", SaeSource(path=str(house.saes["mid"])), wanted={3: ""})
    return build_engine(ReaderSource(path=str(directory)), [choice], Config(**settings))


def change_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def refusal(house: House, directory: Path, **settings: object) -> str:
    """What an operator is told."""
    with pytest.raises(SetupError) as caught:
        build(house, directory, **settings)
    return str(caught.value)


@pytest.mark.parametrize("deepest_layer", [0, 1, 2, 3])
def test_only_layers_down_to_the_deepest_watched_one_are_loaded(house: House, deepest_layer: int) -> None:
    """A reader holds the embedding, the layers that are watched or lead to one, and the norm: no head, nothing deeper."""
    whole = Gemma2ForCausalLM.from_pretrained(house.reader)
    parts = [whole.model.embed_tokens, whole.model.norm, *whole.model.layers[: deepest_layer + 1]]

    loaded = load(house.reader, deepest_layer=deepest_layer)

    assert sum(p.numel() for part in parts for p in part.parameters()) == weight_count(loaded.model)
    assert (deepest_layer + 1, 4) == (loaded.identity.layers_run, loaded.identity.layers_total)
    assert deepest_layer + 1 == len(loaded.layers)


def test_the_deepest_watched_feature_decides(house: House) -> None:
    """A watchlist on layers 1 and 2 of four runs three layers."""
    engine = build_engine(*choices([load_watchlist(house.watchlist)]), Config())

    assert (3, 4) == (engine.identity.reader.layers_run, engine.identity.reader.layers_total)


def test_a_reader_cannot_be_trained_by_accident(house: House) -> None:
    """The loaded reader is in inference mode with no gradients."""
    model = load(house.reader).model

    assert {(False, False)} == {(model.training, p.requires_grad) for p in model.parameters()}


def test_layers_below_the_watched_ones_need_not_be_there(reader: Path) -> None:
    """Weights of deeper layers are never read: a file without them loads to the same reader."""
    whole = load(reader).model.state_dict()
    change_weights(reader, lambda t: [t.pop(name) for name in list(t) if "layers.2." in name or "layers.3." in name])

    part = load(reader).model.state_dict()

    assert whole.keys() == part.keys()
    assert {True} == {torch.equal(whole[name], part[name]) for name in whole}


@pytest.mark.parametrize(
    "name", ["layers.1.mlp.up_proj.weight", "layers.0.input_layernorm.weight", "embed_tokens.weight"]
)
def test_a_missing_weight_is_named(reader: Path, name: str) -> None:
    """A needed tensor the file lacks is refused by name, not filled with random numbers."""
    change_weights(reader, lambda t: t.pop(f"model.{name}"))

    with pytest.raises(ReaderError, match=f"the weights lack {name}"):
        load(reader)


def test_a_weight_of_another_shape_is_named(reader: Path) -> None:
    """A tensor of another shape than the configuration's is refused by name and both shapes."""
    name = "layers.1.mlp.up_proj.weight"
    change_weights(reader, lambda t: t.update({f"model.{name}": torch.zeros(3, 5)}))

    with pytest.raises(ReaderError, match=rf"{name} has shape \(3, 5\), config.json asks for \(64, 32\)"):
        load(reader)


def test_weights_may_come_in_several_files(house: House, reader: Path) -> None:
    """A reader saved in shards is the reader saved in one file; a lost shard is refused."""
    whole = load(house.reader).model.state_dict()
    (reader / WEIGHTS).unlink()
    Gemma2ForCausalLM.from_pretrained(house.reader).save_pretrained(reader, max_shard_size="60KB")
    shards = sorted(reader.glob("model-*.safetensors"))

    part = load(reader).model.state_dict()

    assert len(shards) > 1
    assert {True} == {torch.equal(whole[name], part[name]) for name in whole}
    shards[0].unlink()
    with pytest.raises(ReaderError, match=f"names {shards[0].name}, which is not there"):
        load(reader)


@pytest.mark.parametrize("deepest_layer", [4, 25])
def test_a_layer_the_reader_lacks_is_refused(house: House, deepest_layer: int) -> None:
    """Watching a layer that is not there says which layers are."""
    with pytest.raises(ReaderError, match=f"layer {deepest_layer} is watched, but it has layers 0 to 3"):
        load(house.reader, deepest_layer=deepest_layer)


@pytest.mark.parametrize("cap", [None, 0.0], ids=["null", "zero"])
def test_a_reader_without_its_attention_cap_is_refused(reader: Path, cap: float | None) -> None:
    """A Gemma 2 whose configuration lost its soft cap would read something else: it does not start."""
    change_config(reader, attn_logit_softcapping=cap)

    with pytest.raises(ReaderError, match="attn_logit_softcapping"):
        load(reader)


def test_the_cap_matters_on_the_test_reader(house: House) -> None:
    """Without its soft cap this reader's residual stream is plainly another, so the numerics tests would notice."""
    ids = torch.arange(6, 60)[None]
    streams = []
    for changes in ({}, {"attn_logit_softcapping": None}):
        config = gemma_config(**changes)
        model = Gemma2ForCausalLM.from_pretrained(house.reader, config=config, attn_implementation="eager")
        with torch.no_grad():
            streams.append(model(input_ids=ids, output_hidden_states=True).hidden_states[3])

    difference = (streams[0] - streams[1]).abs().max() / streams[0].abs().max()

    assert difference > 0.1


def test_attention_is_the_one_that_caps(house: House) -> None:
    """A reader runs our attention, whatever transformers would choose, and its identity says so."""
    loaded = load(house.reader)

    assert ("packed", "packed") == (loaded.model.config._attn_implementation, loaded.identity.attention)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no directory": (shutil.rmtree, "no such directory"),
    "a file": (lambda d: (shutil.rmtree(d), d.write_text("")), "no such directory"),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), r"no \*.safetensors file"),
    "only pickled weights": (lambda d: (d / WEIGHTS).rename(d / "pytorch_model.bin"), r"no \*.safetensors file"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "no tokenizer files at all": (lambda d: [f.unlink() for f in d.glob("token*")], "tokenizer.json is missing"),
    "tokenizer not JSON": (lambda d: (d / "tokenizer.json").write_text("{"), "no usable tokenizer"),
    "tokenizer empty": (lambda d: (d / "tokenizer.json").write_text("{}"), "no usable tokenizer"),
    "config not JSON": (lambda d: (d / "config.json").write_text("{"), "config.json: .*JSON"),
    "config not text": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json: .*JSON"),
    "config empty": (lambda d: (d / "config.json").write_text("{}"), "config.json: .*model_type"),
    "config a list": (lambda d: (d / "config.json").write_text("[]"), "config.json: .*model_type"),
    "gpt2": (lambda d: (d / "config.json").write_text('{"model_type": "gpt2"}'), "'gpt2' is not supported yet.*qwen3"),
    "unheard of": (lambda d: (d / "config.json").write_text('{"model_type": "nonsense"}'), "config.json: .*nonsense"),
    "layers a word": (lambda d: change_config(d, num_hidden_layers="many"), "config.json: .*num_hidden_layers"),
    "layers miscounted": (lambda d: change_config(d, num_hidden_layers=1), "config.json: .*num_hidden_layers"),
    "other width": (lambda d: change_config(d, hidden_size=48), "has shape .* config.json asks for"),
    "weights empty": (lambda d: (d / WEIGHTS).write_bytes(b""), f"{WEIGHTS} is damaged"),
    "weights cut in header": (lambda d: cut(d, 1000), f"{WEIGHTS} is damaged"),
    "weights cut in data": (lambda d: cut(d, 50_000), f"{WEIGHTS} is damaged"),
    "a page for weights": (lambda d: (d / WEIGHTS).write_text("<html>not found</html>" * 9), f"{WEIGHTS} is damaged"),
}


def cut(directory: Path, size: int) -> None:
    file = directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_reader_is_refused(house: House, reader: Path, damage: Callable[[Path], object], told: str) -> None:
    """Whatever is wrong with a reader's directory, the process does not start and says in one line what and where."""
    damage(reader)

    with pytest.raises(ReaderError, match=told) as caught:
        build(house, reader)

    assert str(reader) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_sae_of_another_model_is_refused(house: House, tmp_path: Path) -> None:
    """An SAE whose vectors are not as wide as the residual stream names both widths."""
    narrow = save_reader(tmp_path / "narrow", hidden_size=16)

    with pytest.raises(SaeError, match=r"vectors of 32, layers\.1\.resid_post of the reader has 16"):
        build(house, narrow)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """An empty Hugging Face cache and a machine whose every connection fails; gives the attempts."""
    attempts: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        attempts.append(arguments)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


def test_a_hub_id_is_not_downloaded_unasked(no_network: list[object]) -> None:
    """A hub id that is not in the local cache is refused without a word to the network."""
    with pytest.raises(ReaderError, match=r"google/gemma-2-2b: .*not in the local Hugging Face cache.*allow_download"):
        find_reader(ReaderSource(id="google/gemma-2-2b"), Config())

    assert not no_network


def test_a_hub_id_that_cannot_be_downloaded_says_so(no_network: list[object]) -> None:
    """With downloads allowed and no network, the refusal blames the network."""
    with pytest.raises(ReaderError, match=r"google/gemma-2-2b: .*(cannot be reached|cannot be downloaded)"):
        find_reader(ReaderSource(id="google/gemma-2-2b"), Config(allow_download=True))

    assert no_network


@pytest.mark.parametrize("hub_id", ["a/b/c", "spaces are not allowed/x", "..", "a--b/c"])
def test_a_malformed_hub_id_is_refused(no_network: list[object], hub_id: str) -> None:
    """What cannot be a hub id is a setup error that repeats it."""
    with pytest.raises(ReaderError, match="reader " + hub_id.replace(".", r"\.")):
        find_reader(ReaderSource(id=hub_id), Config())


def test_a_cached_hub_id_is_found(no_network: list[object], house: House, tmp_path: Path) -> None:
    """A snapshot in the local Hugging Face cache is used, at the revision asked for."""
    commit = "0123456789012345678901234567890123456789"
    repository = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(house.reader, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)

    sources = [ReaderSource(id="someone/tiny", revision=revision) for revision in ("", commit)]
    found = {source.revision: find_reader(source, Config()) for source in sources}

    assert {repository / "snapshots" / commit} == set(found.values())
    assert not no_network


@pytest.mark.parametrize(
    ("reader", "told"),
    [
        ("someone/tiny", "not in the local Hugging Face cache"),
        ("./someone/tiny", "no such directory"),
        ("/someone/tiny", "no such directory"),
        ("~/someone", "no such directory"),
        ("someone", "no such directory"),
        ("some/one/tiny", "no such directory"),
    ],
)
def test_inspection_takes_a_directory_or_a_hub_id(
    no_network: list[object], house: House, reader: str, told: str
) -> None:
    """What looks like a hub id and is no directory is one; everything else is a directory."""
    with pytest.raises(ReaderError, match=told):
        token_activations(
            reader=ReaderSource.named(reader),
            sae=SaeSource(path=str(house.saes["mid"])),
            features=[3],
            prompt="hello",
            response="world",
            config=Config(),
        )


@pytest.mark.parametrize("device", ["gpu", "", "meta", "mps", "xpu", "cpu:1", "cuda:x", "cuda:-1", "CPU"])
def test_an_unknown_device_is_refused(house: House, device: str) -> None:
    """Only a CPU and CUDA devices are known; anything else is refused before it is tried."""
    with pytest.raises(ConfigError, match=f"device {device!r}: expected auto, cpu, cuda or cuda:N"):
        load(house.reader, device=device)


def test_a_cuda_device_that_is_not_there_is_refused(house: House) -> None:
    """Asking for a CUDA device beyond those torch sees says how many it sees."""
    with pytest.raises(ConfigError, match=f"device 'cuda:99': this torch sees {torch.cuda.device_count()} CUDA"):
        load(house.reader, device="cuda:99")


AVX512 = {"avx512_f": True, "avx512_bw": True, "avx512_vl": True, "avx512_dq": True}


def pretend_cpu(
    monkeypatch: pytest.MonkeyPatch, *, capabilities: dict[str, bool], vectors: str = "AVX512", onednn: bool = True
) -> None:
    """Makes torch describe a CPU that need not be this one.

    Args:
        monkeypatch: Puts the real CPU back at the end of the test.
        capabilities: The instructions that the CPU has.
        vectors: The kernels of torch's own that are chosen: those for AVX512, AVX2, or DEFAULT.
        onednn: Whether oneDNN can multiply bfloat16 with the instructions that it may use.
    """
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn, raising=False)


@pytest.mark.parametrize(
    ("cpu", "fast"),
    [
        pytest.param({"capabilities": AVX512 | {"avx512_bf16": True}}, True, id="AVX-512"),
        pytest.param({"capabilities": AVX512 | {"amx_bf16": True}}, True, id="AMX"),
        pytest.param({"capabilities": AVX512 | {"avx512_bf16": True}, "vectors": "AVX2"}, True, id="torch uses AVX2"),
        pytest.param({"capabilities": AVX512 | {"avx512_bf16": True}, "vectors": "DEFAULT"}, False, id="no packing"),
        pytest.param({"capabilities": AVX512 | {"avx512_bf16": True}, "onednn": False}, False, id="hidden from oneDNN"),
        pytest.param({"capabilities": AVX512 | {"avx512_bf16": False, "amx_bf16": False}}, False, id="float32 only"),
        pytest.param({"capabilities": {"avx2": True}, "vectors": "AVX2", "onednn": False}, False, id="AVX2 only"),
        pytest.param({"capabilities": {"bf16": True}, "vectors": "DEFAULT"}, False, id="arm64"),
    ],
)
def test_bfloat16_is_for_cpus_that_multiply_it(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, Any], fast: bool
) -> None:
    """A CPU may compute in bfloat16 if it has the arithmetic, and torch's packed layers can and may use it."""
    pretend_cpu(monkeypatch, **cpu)

    assert fast == multiplies_bfloat16()


def test_bfloat16_is_refused_on_a_cpu_without_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU without bfloat16 arithmetic the setting is refused, since it would be hundreds of times slower."""
    pretend_cpu(monkeypatch, capabilities=AVX512)

    with pytest.raises(ConfigError, match="dtype bfloat16: this CPU"):
        load(house.reader, dtype="bfloat16")


@pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU multiplies no bfloat16")
def test_bfloat16_runs_on_a_cpu_that_has_it(house: House) -> None:
    """On a CPU with bfloat16 arithmetic the setting is taken, the reader's identity says so, and the reader runs."""
    loaded = load(house.reader, dtype="bfloat16")
    states = loaded.model(input_ids=torch.arange(6, 20)[None], use_cache=False).last_hidden_state

    assert {torch.bfloat16} == {p.dtype for p in loaded.model.parameters()}
    assert (torch.bfloat16, True) == (states.dtype, bool(states.isfinite().all()))
    assert "bfloat16" == loaded.identity.dtype


def test_auto_is_float32_on_a_cpu(house: House) -> None:
    """Left alone, a reader on a CPU computes in float32."""
    loaded = load(house.reader, dtype="auto")

    assert {torch.float32} == {p.dtype for p in loaded.model.parameters()}


def test_readers_of_any_depth_share_the_digests_of_their_common_layers(tmp_path: Path) -> None:
    """What was said of a reader loaded to one depth can be found again in a reader loaded deeper."""
    directory = save_reader(tmp_path / "reader", num_hidden_layers=12)
    deep = load(directory, deepest_layer=11).identity.layer_digests

    assert 13 == len(set(deep))
    for depth in (-1, 0, 2, 9, 10, 11):
        shallow = load(directory, deepest_layer=depth).identity
        assert deep[: depth + 2] == shallow.layer_digests
        assert deep[depth + 1] == shallow.digest


@pytest.mark.parametrize(
    ("name", "same"), [("embed_tokens", 0), ("norm", 0), ("layers.0.mlp.up_proj", 1), ("layers.2.input_layernorm", 3)]
)
def test_a_changed_weight_changes_the_digests_from_its_layer_on(reader: Path, name: str, same: int) -> None:
    """Readers that do not run the layer are the same as before, those that do are others."""
    before = load(reader, deepest_layer=3).identity.layer_digests
    change_weights(reader, lambda t: t[f"model.{name}.weight"].neg_())
    after = load(reader, deepest_layer=3).identity.layer_digests

    assert [True] * same + [False] * (5 - same) == [old == new for old, new in zip(before, after, strict=True)]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (lambda _: None, True),
        (lambda d: change_weights(d, lambda t: t["model.layers.0.mlp.up_proj.weight"].add_(1e-3)), False),
        (lambda d: change_config(d, sliding_window=8), False),
    ],
    ids=["copy", "one weight", "configuration"],
)
def test_the_digest_follows_the_files(house: House, reader: Path, change: Callable[[Path], object], same: bool) -> None:
    """Two readers share a digest exactly if their weights and configurations are the same bytes."""
    change(reader)

    assert same == (load(house.reader).identity.digest == load(reader).identity.digest)


def test_max_tokens_is_bounded_by_the_readers_context(house: House) -> None:
    """A reader is never given more positions than it has."""
    engine = build(house, house.reader, max_tokens=1024, max_batch_tokens=1024)

    assert 512 == engine.max_tokens


def another_watchlist(house: House, folder: Path, *swaps: tuple[str, str]) -> Path:
    """The house's watchlist in another folder, with some words changed."""
    text = house.watchlist.read_text()
    for old, new in (("path: reader", f"path: {house.reader}"), ("path: sae", f"path: {house.folder}/sae"), *swaps):
        assert old in text
        text = text.replace(old, new)
    file = folder / "second.yaml"
    file.write_text(text)
    return file


def test_watchlists_share_one_engine(house: House, tmp_path: Path) -> None:
    """Several watchlists' features are watched together, each once, in the order of SAE names and indices."""
    second = another_watchlist(house, tmp_path, ("name: test", "name: other"), ("mid/3", "mid/40"))

    engine = build_engine(*choices([load_watchlist(house.watchlist), load_watchlist(second)]), Config())

    expected = [("late", 0), ("late", 7), ("mid", 3), ("mid", 11), ("mid", 40)]
    assert [FeatureKey(*key) for key in expected] == list(engine.identity.features)


OTHER_NAME = ("name: test", "name: other")
CONFLICTS = {
    "same name": ([], "another watchlist is already named 'test'"),
    "another reader": ([OTHER_NAME, ("/reader", "/elsewhere")], "one process has one reader"),
    "another rendering": (
        [OTHER_NAME, ("/reader", "/reader\n  bos: never")],
        "one process has one reader with one way of rendering",
    ),
    "another SAE": ([OTHER_NAME, ("res/layer_2", "res/layer_1")], "calls a different SAE 'late'"),
}


@pytest.mark.parametrize(("swaps", "told"), CONFLICTS.values(), ids=CONFLICTS.keys())
def test_watchlists_that_disagree_are_refused(
    house: House, tmp_path: Path, swaps: list[tuple[str, str]], told: str
) -> None:
    """Watchlists that cannot share a process are refused, with the place of the disagreement."""
    second = another_watchlist(house, tmp_path, *swaps)

    with pytest.raises(WatchlistError, match=rf"second.yaml:\d+: .*{told}"):
        choices([load_watchlist(house.watchlist), load_watchlist(second)])


def test_watchlists_in_different_folders_may_share_a_reader(house: House, tmp_path: Path) -> None:
    """One reader written as two relative paths is one reader."""
    files = []
    for name in ("test", "other"):
        (tmp_path / name).mkdir()
        moved = another_watchlist(house, tmp_path, ("name: test", f"name: {name}"), (f"{house.reader}", "../reader"))
        files.append(moved.rename(tmp_path / name / "watchlist.yaml"))

    reader, _ = choices([load_watchlist(file) for file in files])

    assert str(tmp_path / "reader") == reader.path


def test_a_feature_the_sae_lacks_is_named_with_its_place(house: House, tmp_path: Path) -> None:
    """A watched feature beyond the SAE's width is refused with the line of the watchlist that asks for it."""
    third = another_watchlist(house, tmp_path, ("late/7", "late/64"))

    with pytest.raises(SaeError, match=r"second.yaml:\d+: .*there is no feature 64 .*it has 0 to 63"):
        build_engine(*choices([load_watchlist(third)]), Config())
