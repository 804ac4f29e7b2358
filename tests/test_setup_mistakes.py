"""Files that are wrong, or do not fit each other, are found at start-up, not by a caller."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import build_house, save_sae
from families import FAMILIES, LAYERS, save_weights
from scopewatch.app.load import load
from scopewatch.config import Config
from scopewatch.errors import ReaderError, SaeError, SetupError
from scopewatch.files import expanded
from scopewatch.reader.find import find_reader
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sae.open import open_sae
from scopewatch.sources import ReaderSource


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    """A tokenizer with more tokens than the model embeds is named, since on a GPU one of them would end the process."""
    house = build_house(tmp_path)
    tokenizer = house.reader / "tokenizer.json"
    document = json.loads(tokenizer.read_text())
    token = {"content": "<beyond>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    document["added_tokens"] += [
        token | {"id": 300 + extra, "content": f"<beyond{extra}>", "special": False} for extra in range(600)
    ]
    tokenizer.write_text(json.dumps(document))

    with pytest.raises(ReaderError, match=r"the tokenizer has \d+ tokens, the model embeds 512"):
        load(Config(watchlist=(house.watchlist,)))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        pytest.param("{% for message in messages %}{{ message", "chat template, line 1", id="syntax"),
        pytest.param("{{ messages[0]['content'] + 1 }}", "chat template: TypeError", id="type"),
    ],
)
def test_a_template_that_cannot_run_is_the_operators_mistake(tmp_path: Path, template: str, message: str) -> None:
    """A chat template that fails on a plain question and answer is refused when the reader is loaded."""
    house = build_house(tmp_path)
    (house.reader / "chat_template.jinja").write_text(template)

    with pytest.raises(ReaderError, match=message):
        Tokeniser(house.reader, max_tokens=64)


def test_a_negative_threshold_is_refused(tmp_path: Path) -> None:
    """An SAE with a negative threshold is none of this release."""
    threshold = np.full(64, 0.1, np.float32)
    threshold[5] = -0.1
    file = save_sae(tmp_path, 1, threshold=threshold)

    with pytest.raises(SaeError, match="threshold is negative"):
        open_sae(file)


WRONG = (None, "x", "", -1, 0, 10**9, 10**30, 1e30, 0.5, [], [[1]], {}, {"a": 1}, True, False)
"""Values of which most are wrong for most fields of a configuration."""


def loaded(directory: Path) -> Reader:
    """The whole reader in a directory, found and loaded as a service does."""
    found = find_reader(ReaderSource(path=str(directory)), Config())
    return load_reader(found, name="r", revision="", deepest_layer=LAYERS - 1, device="cpu", dtype="float32", head=True)


def stream(reader: Reader) -> torch.Tensor:
    """What a reader makes of some tokens, shape (1, n_tokens, hidden_size)."""
    with torch.no_grad():
        hidden: torch.Tensor = reader.model(input_ids=torch.arange(3, 40)[None], use_cache=False)[0]
    return hidden


def refusal(directory: Path) -> str:
    """What is said of a reader that is refused, in one line that begins with its directory."""
    with pytest.raises(ReaderError) as caught:
        loaded(directory)
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 600
    return said.removeprefix(f"reader {directory}: ")


def configured(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes `config.json`; the text model's part of it, where that is one."""
    file = directory / "config.json"
    config = json.loads(file.read_text())
    change(config.get("text_config", config))
    file.write_text(json.dumps(config))


def odd_configurations(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The configuration with another value in each of its fields, in turn one of those that are wrong."""
    for number, name in enumerate(config):
        yield config | {name: WRONG[number % len(WRONG)]}
        if isinstance(config[name], dict) and name != "vision_config":
            yield from ({**config, name: part} for part in odd_configurations(config[name]))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_configuration_ends_in_a_traceback(family: str, tmp_path: Path) -> None:
    """Whatever stands in a field of `config.json`, the reader loads and reads, or is refused in one line."""
    save_weights(family, tmp_path)
    file = tmp_path / "config.json"
    refused = 0
    for config in odd_configurations(json.loads(file.read_text())):
        file.write_text(json.dumps(config))
        try:
            reader = loaded(tmp_path)
        except ReaderError as error:
            said = str(error)
            assert said.startswith(f"reader {tmp_path}: ")
            assert "\n" not in said
            refused += 1
        else:
            assert torch.isfinite(stream(reader)).all(), config
    assert refused > 10


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("llama", {"rope_scaling": {"rope_type": "mrope", "mrope_section": [1, 1, 2]}}, "rope type mrope is not"),
        ("qwen2", {"rope_parameters": {"type": "mrope", "rope_theta": 9.0}}, "rope type mrope is not"),
        ("gemma3", {"rope_parameters": {"full_attention": {"rope_type": "new", "rope_theta": 9.0}}}, "rope type new"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": "2", "rope_theta": 9.0}}, "rope_parameters: "),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, "not finite.*rope_parameters"),
        ("llama", {"partial_rotary_factor": 0.5}, "(rope_parameters|partial_rotary_factor): "),
        ("llama", {"hidden_act": "nonsense"}, "hidden_act: KeyError"),
        ("llama", {"num_attention_heads": 0}, "num_attention_heads: "),
        ("llama", {"attention_bias": True}, r"the weights lack layers.0.self_attn.k_proj.bias"),
        ("llama", {"mlp_bias": True}, r"the weights lack layers.0.mlp.down_proj.bias"),
        ("llama", {"dtype": "nonsense"}, "dtype: "),
        ("llama", {"is_causal": False}, "attention is not causal"),
        ("gemma3", {"use_bidirectional_attention": True}, "attention is not causal"),
        ("gemma3", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("gemma3", {"layer_types": ["strange"] * LAYERS}, "text_config.layer_types: "),
        ("gemma3", {"hidden_size": "wide"}, "text_config.hidden_size: "),
        ("gemma2", {"sliding_window": 0}, "sliding_window is 0"),
        ("gemma2", {"sliding_window": None}, "sliding_window is None"),
        ("mistral", {"sliding_window": -1}, "sliding_window is -1"),
        ("llama", {"max_position_embeddings": 0}, "max_position_embeddings is less than 1"),
        ("llama", {"vocab_size": 10**9}, r"embed_tokens.weight has shape \(512, 32\)"),
        ("llama", {"intermediate_size": 10**9}, r"mlp.down_proj.weight has shape \(32, 48\)"),
        ("llama", {"num_hidden_layers": 5}, "num_hidden_layers is 5, the weights hold 4 layers"),
        ("qwen2", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; expected"),
        ("llama", {"model_type": ["llama"]}, "expected a JSON object with a text model_type"),
    ],
)
def test_the_field_that_is_to_blame_is_named(family: str, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    """A configuration that no reader can have is refused by the field, before memory is taken for what it says."""
    configured(save_weights(family, tmp_path), lambda config: config.update(change))

    told = refusal(tmp_path)

    assert re.search(said, told)
    assert "config.json" in told or "weights lack" in told


@pytest.mark.parametrize("dynamic", [False, True], ids=["plain", "dynamic rope"])
@pytest.mark.parametrize("token", [-1, 512, 10**30])
def test_padding_beyond_the_vocabulary_is_never_read(token: int, dynamic: bool, tmp_path: Path) -> None:
    """A reader whose padding token has no embedding reads as it does without one."""
    save_weights("llama", tmp_path)
    if dynamic:
        rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
        configured(tmp_path, lambda config: config.update(rope_parameters=rope))
    expected = stream(loaded(tmp_path))

    configured(tmp_path, lambda config: config.update(pad_token_id=token))

    assert torch.equal(expected, stream(loaded(tmp_path)))


def weights_of(directory: Path) -> Path:
    return directory / "model.safetensors"


def test_more_layers_than_the_configuration_says_are_not_dropped(tmp_path: Path) -> None:
    """Weights of a deeper model than the configuration's are refused, not read down to where it ends."""
    configured(save_weights("llama", tmp_path), lambda config: config.update(num_hidden_layers=LAYERS - 1))

    with pytest.raises(ReaderError, match=r"config.json: num_hidden_layers is 3, the weights hold 4 layers"):
        load_reader(tmp_path, name="r", revision="", deepest_layer=0, device="cpu", dtype="float32")


def nan_weight(directory: Path) -> None:
    weights = load_file(weights_of(directory))
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = torch.nan
    save_file(weights, weights_of(directory), metadata={"format": "pt"})


def index_of(directory: Path, text: str) -> None:
    weights_of(directory).rename(directory / "model-1.safetensors")
    (directory / "model.safetensors.index.json").write_text(text)


def in_place_of(file: Path) -> None:
    file.unlink()
    file.mkdir()


ODD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an adapter": (lambda d: (d / "adapter_config.json").write_text("{}"), "adapter_config.json: adapters are not"),
    "weights a folder": (lambda d: in_place_of(weights_of(d)), "model.safetensors is damaged"),
    "weights a broken link": (
        lambda d: (weights_of(d).unlink(), weights_of(d).symlink_to("nowhere")),
        "model.safetensors is damaged",
    ),
    "weights that are no numbers": (nan_weight, "numbers that are not finite"),
    "configuration a folder": (lambda d: in_place_of(d / "config.json"), "config.json is missing"),
    "configuration nested": (lambda d: (d / "config.json").write_text("[" * 10**5), "config.json: cannot be read"),
    "configuration of digits": (lambda d: (d / "config.json").write_text("9" * 10**4), "config.json: cannot be read"),
    "index nested": (lambda d: index_of(d, "[" * 10**5), "index.json is damaged"),
    "index of no names": (lambda d: index_of(d, '{"weight_map": {"a": 5, "b": null}}'), "index.json is damaged"),
    "index of a folder": (lambda d: index_of(d, '{"weight_map": {"a": ""}}'), "index.json names"),
    "index with NUL": (lambda d: index_of(d, '{"weight_map": {"a": "\\u0000"}}'), "index.json names"),
}


@pytest.mark.parametrize(("change", "said"), ODD_FILES.values(), ids=ODD_FILES.keys())
def test_an_odd_file_of_a_reader_is_named(change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    """Files of other kinds than they should be, or that hold something else, are refused by name."""
    change(save_weights("llama", tmp_path))

    assert said in refusal(tmp_path)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process as a container may run it: as a user of no name and without a home."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_123_456)


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_can_read(tmp_path: Path) -> None:
    """A process whose user has no home loads what lies elsewhere; a path below `~` is refused in one line."""
    house = build_house(tmp_path)

    assert load(Config(watchlist=(house.watchlist,))).watchlists
    for path in ("~/reader", "~nobody-of-this-name/reader"):
        with pytest.raises(SetupError, match=f"{path}: there is no such home folder"):
            expanded(path)
    with pytest.raises(SetupError, match="no such home folder"):
        load(Config(watchlist=(house.watchlist,), pack_dir="~/packs"))
