"""Readers of every family: each hookpoint against independent hooks on the model as transformers loads it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from families import (
    FAMILIES,
    HEADS,
    HIDDEN,
    LAYERS,
    PREFIXES,
    TABLE,
    WINDOW,
    load_untouched,
    rename_weights,
    save_family,
    save_weights,
    weight_count,
)
from scopewatch.errors import ReaderError, SaeError
from scopewatch.reader.families import FAMILIES as SUPPORTED
from scopewatch.reader.hookpoints import Hookpoint, parse_hookpoint, sites, tap, width
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair, Segment, TokenisedPair

TOLERANCE = 1e-5
"""Of the largest activation."""
LENGTHS = (41, 23, 7)
"""Tokens of the sequences of one batch; two are longer than the window."""
# The places of Gemma Scope's papers and TransformerLens' hooks in the modules of each family, written out.
ON_GEMMA = {
    "resid_pre": "input of layers.{}",
    "resid_mid": "input of layers.{}.pre_feedforward_layernorm",
    "resid_post": "output of layers.{}",
    "attn_z": "input of layers.{}.self_attn.o_proj",
    "attn_out": "output of layers.{}.post_attention_layernorm",
    "mlp_in": "output of layers.{}.pre_feedforward_layernorm",
    "mlp_out": "output of layers.{}.post_feedforward_layernorm",
    "mlp.output": "output of layers.{}.mlp",
    "self_attn.output": "output of layers.{}.self_attn",
    "self_attn.input": "input of layers.{}.self_attn",
    "mlp.down_proj.input": "input of layers.{}.mlp.down_proj",
}
ON_OTHERS = ON_GEMMA | {
    "resid_mid": "input of layers.{}.post_attention_layernorm",
    "attn_out": "output of layers.{}.self_attn",
    "mlp_in": "output of layers.{}.post_attention_layernorm",
    "mlp_out": "output of layers.{}.mlp",
}
NAMED = ("resid_pre", "resid_mid", "resid_post", "attn_z", "attn_out", "mlp_in", "mlp_in_unit", "mlp_out")


def load(directory: Path, *, deepest_layer: int = LAYERS - 1) -> Reader:
    return load_reader(directory, name="r", revision="", deepest_layer=deepest_layer, device="cpu", dtype="float32")


def sequences() -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return [torch.randint(3, 450, (length,), generator=random) for length in LENGTHS]


def read_batch(reader: Reader) -> None:
    """One forward pass over all sequences, padded on the right and without a mask, as the runner does."""
    with torch.no_grad():
        padded = torch.nn.utils.rnn.pad_sequence(sequences(), batch_first=True)
        reader.model(input_ids=padded, use_cache=False)


@contextmanager
def taken(reader: Reader, *hookpoints: Hookpoint) -> Iterator[dict[Hookpoint, torch.Tensor]]:
    """What arrives from each hookpoint, as long as the block lasts."""
    arrived: dict[Hookpoint, torch.Tensor] = {}
    handles = [tap(reader, h, lambda x, h=h: arrived.__setitem__(h, x.detach().clone())) for h in hookpoints]
    yield arrived
    for handle in handles:
        handle.remove()


def activations(reader: Reader, hookpoint: Hookpoint) -> torch.Tensor:
    """Of all sequences, one after another without their padding: shape (tokens, width)."""
    with taken(reader, hookpoint) as arrived:
        read_batch(reader)
    return torch.cat([row[:length] for row, length in zip(arrived[hookpoint], LENGTHS, strict=True)])


def record(model: PreTrainedModel, root: str) -> dict[str, torch.Tensor]:
    """Inputs and outputs of every module under `root`, from hooks on the model; each sequence read alone."""
    found: dict[str, list[torch.Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def see(_module: object, inputs: tuple, named: dict, output: object) -> None:
            for end, value in (
                ("input", inputs[0] if inputs else named.get("hidden_states")),
                ("output", output[0] if isinstance(output, tuple) else output),
            ):
                if isinstance(value, torch.Tensor):
                    found.setdefault(f"{end} of {name}", []).append(value[0].clone())

        return see

    handles = [
        module.register_forward_hook(hook(name), with_kwargs=True)
        for name, module in model.get_submodule(root).named_modules()
    ]
    with torch.no_grad():
        outputs = [model(input_ids=ids[None], use_cache=False, output_hidden_states=True) for ids in sequences()]
    for handle in handles:
        handle.remove()
    states = {
        f"hidden_states[{i}]": torch.cat([output.hidden_states[i][0] for output in outputs]) for i in range(LAYERS + 1)
    }
    return {name: torch.cat(values) for name, values in found.items() if values[0].dim() == 2} | states


@dataclass(frozen=True)
class Subject:
    """A reader under test beside the untouched model from the same directory."""

    family: str
    directory: Path
    reader: Reader
    reference: dict[str, torch.Tensor]
    modules: dict[str, torch.nn.Module]

    @cached_property
    def embedding_matrix(self) -> torch.Tensor:
        tensors = load_file(self.directory / "model.safetensors")
        return next(tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight"))

    @property
    def places(self) -> dict[str, str]:
        return ON_GEMMA if TABLE[self.family].gemma else ON_OTHERS

    def norm(self, layer: int) -> torch.nn.Module:
        """The norm before the MLP, of the untouched model."""
        name = "pre_feedforward_layernorm" if TABLE[self.family].gemma else "post_attention_layernorm"
        return self.modules[f"layers.{layer}.{name}"]

    def at(self, site: str, layer: int) -> torch.Tensor:
        return activations(self.reader, Hookpoint(layer, site))


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    directory = save_weights(request.param, tmp_path_factory.mktemp(request.param))
    untouched = load_untouched(request.param, directory)
    root = TABLE[request.param].root
    modules = dict(untouched.get_submodule(root).named_modules())
    return Subject(request.param, directory, load(directory), record(untouched, root), modules)


def assert_same(expected: torch.Tensor, actual: torch.Tensor) -> None:
    assert expected.shape == actual.shape
    assert (expected - actual).abs().max() <= TOLERANCE * expected.abs().max()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


# Hookpoints.


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("site", ON_GEMMA)
def test_a_hookpoint_gives_what_the_untouched_model_computes_there(subject: Subject, site: str, layer: int) -> None:
    """In a padded batch with sequences beyond the window, each hookpoint is the module input or output of the paper."""
    expected = subject.reference[subject.places[site].format(layer)]

    assert_same(expected, subject.at(site, layer))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_mlp_in_unit_is_resid_mid_at_unit_length_without_gain(subject: Subject, layer: int) -> None:
    """Gemma Scope's transcoders read x / sqrt(mean(x^2) + eps), in float32, whatever the gain."""
    middle = subject.reference[subject.places["resid_mid"].format(layer)].double()
    text = json.loads((subject.directory / "config.json").read_text())
    epsilon = text.get("text_config", text)["rms_norm_eps"]
    expected = middle / (middle.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()

    assert_same(expected.float(), subject.at("mlp_in_unit", layer))


def test_embed_is_the_unscaled_row_of_the_embedding_matrix(subject: Subject) -> None:
    """Gemma Scope's embedding SAEs read E[token] as the file holds it; the embedding module of Gemma scales it."""
    rows = subject.embedding_matrix[torch.cat(sequences())]
    scale = HIDDEN**0.5 if TABLE[subject.family].gemma else 1.0

    assert torch.equal(rows, activations(subject.reader, Hookpoint(-1, "embed")))
    assert_same(rows * scale, activations(subject.reader, parse_hookpoint("hook_embed")))
    assert_same(rows * scale, subject.at("resid_pre", 0))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_hookpoints_add_up(subject: Subject, layer: int) -> None:
    """The residual stream is what it was plus attention plus MLP, and passes on unchanged to the next layer."""
    at = {site: subject.at(site, layer) for site in NAMED}

    assert_same(at["resid_mid"], at["resid_pre"] + at["attn_out"])
    assert_same(at["resid_post"], at["resid_mid"] + at["mlp_out"])
    if layer + 1 < LAYERS:
        assert_same(at["resid_post"], subject.at("resid_pre", layer + 1))


@pytest.mark.parametrize("layer", [0, LAYERS - 1])
def test_attention_and_mlp_lead_from_their_input_sites_to_their_output_sites(subject: Subject, layer: int) -> None:
    """attn_z becomes attn_out by o_proj, mlp_in becomes mlp_out by the MLP, each with Gemma's post norm where there is one."""
    modules = {name: subject.modules[f"layers.{layer}.{name}"] for name in ("self_attn.o_proj", "mlp")}
    with torch.no_grad():
        attended = modules["self_attn.o_proj"](subject.at("attn_z", layer))
        fed = modules["mlp"](subject.at("mlp_in", layer))
        if TABLE[subject.family].gemma:
            attended = subject.modules[f"layers.{layer}.post_attention_layernorm"](attended)
            fed = subject.modules[f"layers.{layer}.post_feedforward_layernorm"](fed)

    assert_same(attended, subject.at("attn_out", layer))
    assert_same(fed, subject.at("mlp_out", layer))


# The mistakes that give plausible but wrong numbers.


def test_mlp_out_is_after_the_post_norm(subject: Subject) -> None:
    """Mistake 1: on Gemma the raw MLP output is something else than mlp_out; elsewhere they are one."""
    apart = difference(subject.at("mlp.output", 1), subject.at("mlp_out", 1))

    assert (apart > 0.1) == (TABLE[subject.family].gemma)


def test_attn_z_is_the_heads_and_not_the_attention_output(subject: Subject) -> None:
    """Mistake 2: attn_z is as wide as all heads together, which for most families is not the residual stream's width."""
    heads = HEADS * TABLE[subject.family].head_dim

    assert heads == width(subject.reader, Hookpoint(1, "attn_z"))
    assert HIDDEN == width(subject.reader, Hookpoint(1, "attn_out"))
    assert (heads == HIDDEN) == (subject.family in {"llama", "qwen2"})
    if heads == HIDDEN:
        assert difference(subject.at("attn_z", 1), subject.at("attn_out", 1)) > 0.1


def test_the_two_transcoder_inputs_differ_by_the_gain(subject: Subject) -> None:
    """Mistake 3: mlp_in is mlp_in_unit times the norm's gain, (1 + weight) on Gemma; neither is resid_mid."""
    unit, gained = subject.at("mlp_in_unit", 2), subject.at("mlp_in", 2)
    weight = subject.norm(2).weight.detach()
    gain = 1 + weight if TABLE[subject.family].gemma else weight

    assert_same(unit * gain, gained)
    assert difference(unit, gained) > 0.1
    assert difference(subject.at("resid_mid", 2), unit) > 0.1


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("model.layers.2.{}.output", "mlp_in"),
        ("blocks.2.mlp.hook_in", "mlp_in"),
        ("blocks.2.ln2.hook_normalized", "mlp_in_unit"),
        ("blocks.2.hook_mlp_in", "resid_mid"),
    ],
    ids=["Gemma Scope 2", "mlp.hook_in", "ln2.hook_normalized", "hook_mlp_in"],
)
def test_the_names_of_transcoder_inputs_are_told_apart(subject: Subject, text: str, site: str) -> None:
    """Mistake 3: what each library calls the MLP's input is the one with gain, the one without, or the plain stream."""
    norm = "pre_feedforward_layernorm" if TABLE[subject.family].gemma else "post_attention_layernorm"

    named = activations(subject.reader, parse_hookpoint(text.format(norm)))

    assert torch.equal(subject.at(site, 2), named)


def test_the_last_layers_resid_post_is_not_the_last_hidden_state(subject: Subject) -> None:
    """Mistake 4: hidden_states[i + 1] is resid_post of layer i except for the last, where it is behind the final norm."""
    reference = subject.reference

    for layer in range(LAYERS - 1):
        assert_same(reference[f"hidden_states[{layer + 1}]"], subject.at("resid_post", layer))
    assert difference(subject.at("resid_post", LAYERS - 1), reference[f"hidden_states[{LAYERS}]"]) > 0.1


@pytest.mark.parametrize("deepest_layer", range(LAYERS))
def test_the_deepest_layer_loaded_gives_the_same_as_in_the_whole_model(subject: Subject, deepest_layer: int) -> None:
    """Mistake 4: leaving deeper layers out changes nothing at the deepest watched one, norm or not."""
    part = load(subject.directory, deepest_layer=deepest_layer)

    assert_same(subject.reference[f"output of layers.{deepest_layer}"], activations(part, Hookpoint(deepest_layer)))


@pytest.mark.parametrize("chat", [True, False], ids=["chat", "plain"])
@pytest.mark.parametrize("family", FAMILIES)
def test_bos_is_read_and_never_scored(family: str, chat: bool, tmp_path: Path) -> None:
    """Mistake 5: BOS stands once at the start of what is read; it, the template and any other first token have no score."""
    directory = save_family(family, tmp_path, chat=chat)
    tokeniser = Tokeniser(directory, max_tokens=512)

    (tokens,) = tokeniser.tokenise([Pair("hello world", "perhaps not")])

    assert isinstance(tokens, TokenisedPair)
    bos = TABLE[family].bos
    texts = tokeniser.token_texts(tokens.ids)
    assert ([0] if bos else []) == [i for i, text in enumerate(texts) if text == bos]
    assert Segment.TEMPLATE == tokens.segments[0]
    if TABLE[family].gemma and chat:
        # Gemma 3's instruction-tuned SAEs are meaningless on these: <bos><start_of_turn>user\n
        assert ["<bos>", "<start_of_turn>", "u", "s", "er", "<0x0A>"] == texts[:6]
        assert {Segment.TEMPLATE} == set(tokens.segments[:6])


# What a hookpoint is called.


def test_every_supported_family_is_tested_here() -> None:
    """A family that loads has a row in the tests' table, and so stands in this file."""
    assert set(TABLE) == set(SUPPORTED)


SPELLINGS = {
    Hookpoint(20): ["layers.20", "layers.20.output", "model.layers.20", "model.language_model.layers.20.output"],
    Hookpoint(20, "resid_pre"): ["layers.20.resid_pre", "model.layers.20.input", "blocks.20.hook_resid_pre"],
    Hookpoint(20, "resid_mid"): ["layers.20.resid_mid", "blocks.20.hook_resid_mid", "blocks.20.hook_mlp_in"],
    Hookpoint(20, "resid_post"): ["layers.20.resid_post", "blocks.20.hook_resid_post"],
    Hookpoint(3, "attn_z"): [
        "layers.3.attn_z",
        "blocks.3.attn.hook_z",
        "layers.3.self_attn.o_proj.input",
        "language_model.model.layers.3.self_attn.o_proj.input",
    ],
    Hookpoint(0, "attn_out"): ["layers.0.attn_out", "blocks.0.hook_attn_out"],
    Hookpoint(0, "mlp_in"): ["layers.0.mlp_in", "blocks.0.mlp.hook_in"],
    Hookpoint(0, "mlp_in_unit"): ["layers.0.mlp_in_unit", "blocks.0.ln2.hook_normalized"],
    Hookpoint(0, "mlp_out"): ["layers.0.mlp_out", "blocks.0.hook_mlp_out"],
    Hookpoint(10, "mlp.output"): ["layers.10.mlp", "layers.10.mlp.output", "model.layers.10.mlp"],
    Hookpoint(10, "self_attn.output"): ["layers.10.self_attn"],
    Hookpoint(10, "mlp.down_proj.input"): ["layers.10.mlp.down_proj.input"],
    Hookpoint(22, "pre_feedforward_layernorm.output"): ["model.layers.22.pre_feedforward_layernorm.output"],
    Hookpoint(22, "post_feedforward_layernorm.output"): ["model.layers.22.post_feedforward_layernorm.output"],
    Hookpoint(-1, "embed"): ["embed"],
    Hookpoint(-1, "embed_tokens.output"): ["embed_tokens", "model.embed_tokens.output", "hook_embed"],
}


@pytest.mark.parametrize(
    ("hookpoint", "text"), [(hookpoint, text) for hookpoint, texts in SPELLINGS.items() for text in texts]
)
def test_hookpoints_are_read_in_every_spelling(hookpoint: Hookpoint, text: str) -> None:
    """One place, however scopewatch, Hugging Face, sparsify or TransformerLens write it; its own name reads back."""
    assert hookpoint == parse_hookpoint(text)
    assert hookpoint == parse_hookpoint(str(hookpoint))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "layers.",
        "layers.-1",
        "layers.x",
        "layers.020",
        "layers.²",
        "layers.20 ",
        "layers.20\n",
        "layers.20.resid_pst",
        "layers.20.resid_post.output",
        "layers.20.attention.output",
        "layers.20.mlp..output",
        "vision_tower.vision_model.encoder.layers.20.mlp",
        "blocks.20",
        "blocks.20.hook_resid_mix",
        "blocks.20.hook_embed",
        "embed.20",
        "embed_tokens.input",
    ],
)
def test_other_hookpoints_are_refused_with_the_known_sites(text: str) -> None:
    """A place that cannot be read is refused with an example of one that can, and all sites."""
    with pytest.raises(SaeError, match=r"write it like layers\.20\.resid_post") as caught:
        parse_hookpoint(text)

    assert all(site in str(caught.value) for site in (*NAMED, "embed"))


def test_hookpoints_are_ordered_by_layer() -> None:
    """The embedding comes before layer 0, and 2 before 10."""
    names = ["layers.10.mlp_in", "embed", "layers.2.resid_post", "layers.10.attn_z"]

    ordered = sorted(map(parse_hookpoint, names))

    assert ["embed", "layers.2.resid_post", "layers.10.attn_z", "layers.10.mlp_in"] == list(map(str, ordered))


def test_every_named_site_is_listed(subject: Subject) -> None:
    """Every family has the same named sites, and each of them can be tapped and has a width."""
    heads = HEADS * TABLE[subject.family].head_dim
    hookpoints = [parse_hookpoint(site if site == "embed" else f"layers.1.{site}") for site in sites(subject.reader)]

    assert {*NAMED, "embed"} == set(sites(subject.reader))
    assert {heads if h.site == "attn_z" else HIDDEN for h in hookpoints} == {
        width(subject.reader, h) for h in hookpoints
    }


NOWHERE = {
    "another family's norm": (
        "llama",
        "layers.1.pre_feedforward_layernorm.output",
        "llama readers have no such module; their sites: .*attn_z",
    ),
    "no such projection": ("gemma2", "layers.1.mlp.middle_proj.output", "gemma2 readers have no such module"),
    "no norm of queries": ("gemma2", "layers.1.self_attn.q_norm", "gemma2 readers have no such module"),
    "a layer not loaded": ("qwen3", "layers.2.mlp_out", "layer 1"),
}


@pytest.mark.parametrize(("family", "text", "told"), NOWHERE.values(), ids=NOWHERE.keys())
def test_a_hookpoint_the_reader_lacks_is_refused(family: str, text: str, told: str, tmp_path: Path) -> None:
    """What one family has and another lacks is refused by name before anything is read."""
    reader = load(save_weights(family, tmp_path), deepest_layer=1)

    with pytest.raises(SaeError, match=f"hookpoint {text}.*{told}"):
        tap(reader, parse_hookpoint(text), lambda _: None)


@pytest.mark.parametrize("hookpoint", [Hookpoint(1, "resid"), Hookpoint(-1, "mlp_out"), Hookpoint(-2, "embed")])
def test_a_hookpoint_made_by_hand_is_checked(tmp_path: Path, hookpoint: Hookpoint) -> None:
    """A hookpoint that no text gives is refused as well."""
    reader = load(save_weights("llama", tmp_path), deepest_layer=1)

    with pytest.raises(SaeError, match=f"hookpoint {hookpoint}"):
        tap(reader, hookpoint, lambda _: None)


def test_a_module_without_a_vector_per_token_is_refused(tmp_path: Path) -> None:
    """Query norms see one vector per head: no SAE reads that, and its width is not made up."""
    reader = load(save_weights("gemma3_text", tmp_path))

    with pytest.raises(SaeError, match=r"layers\.1\.self_attn\.q_norm\.output: gives no single vector"):
        width(reader, parse_hookpoint("layers.1.self_attn.q_norm"))
    read_batch(reader)


def test_a_tap_lasts_until_it_is_removed(tmp_path: Path) -> None:
    """Activations arrive at every forward pass, and no more after the handle is removed."""
    reader = load(save_weights("llama", tmp_path))
    arrived: list[tuple[int, ...]] = []
    handle = tap(reader, Hookpoint(1, "mlp_out"), lambda x: arrived.append(tuple(x.shape)))

    read_batch(reader)
    read_batch(reader)
    handle.remove()
    read_batch(reader)

    assert [(len(LENGTHS), max(LENGTHS), HIDDEN)] * 2 == arrived


# Loading.


@pytest.mark.parametrize("deepest_layer", [-1, 0, 2])
def test_only_what_is_watched_is_loaded(subject: Subject, deepest_layer: int) -> None:
    """Of every family, the embedding, the layers down to the deepest watched one and the norm: no head, no vision."""
    modules = subject.modules
    parts = [modules["embed_tokens"], modules["norm"], *(modules[f"layers.{i}"] for i in range(deepest_layer + 1))]

    loaded = load(subject.directory, deepest_layer=deepest_layer)

    assert sum(p.numel() for part in parts for p in part.parameters()) == weight_count(loaded.model)
    assert (deepest_layer + 1, LAYERS) == (loaded.identity.layers_run, loaded.identity.layers_total)
    assert subject.family == loaded.identity.model_type
    assert (HIDDEN, 512) == (loaded.hidden_size, loaded.context)


def test_the_embedding_needs_no_layer(subject: Subject) -> None:
    """A reader of which only the embedding is watched runs no layer at all."""
    reader = load(subject.directory, deepest_layer=-1)

    rows = activations(reader, Hookpoint(-1, "embed"))

    assert torch.equal(subject.embedding_matrix[torch.cat(sequences())], rows)


def test_nothing_else_need_be_in_the_files(subject: Subject, tmp_path: Path) -> None:
    """Without its head, its deeper layers and its vision tower a file loads to the same reader."""
    directory = shutil.copytree(subject.directory, tmp_path / "reader")
    kept = {
        name: tensor
        for name, tensor in load_file(directory / "model.safetensors").items()
        if "layers.2." not in name
        and "layers.3." not in name
        and not name.startswith(("lm_head", "vision_tower", "multi_modal"))
    }
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})

    assert_same(subject.reference["output of layers.1"], activations(load(directory, deepest_layer=1), Hookpoint(1)))


@pytest.mark.parametrize("layout", PREFIXES)
def test_the_text_model_is_found_wherever_the_files_keep_it(layout: str, tmp_path: Path) -> None:
    """Gemma 3's multimodal wrapper is read in the hub's layout, in that of transformers 5, and as a plain text model."""
    directory = save_weights("gemma3", tmp_path)
    expected = activations(load(directory), Hookpoint(LAYERS - 1))

    rename_weights(directory, {PREFIXES["hub"]: PREFIXES[layout], "vision_tower.": "model.vision_tower."})

    names = load_file(directory / "model.safetensors")
    assert f"{PREFIXES[layout]}layers.0.mlp.up_proj.weight" in names
    assert any(name.startswith("model.vision_tower.") for name in names)
    assert torch.equal(expected, activations(load(directory), Hookpoint(LAYERS - 1)))


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_base_models_own_files_are_read(family: str, tmp_path: Path) -> None:
    """Weights saved without any beginning before their names load as well."""
    directory = save_weights(family, tmp_path)
    expected = activations(load(directory), Hookpoint(1))

    rename_weights(directory, {"model.": ""})

    assert torch.equal(expected, activations(load(directory), Hookpoint(1)))


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    """Files the index does not name, such as Mistral's consolidated ones, are neither read nor part of the digest."""
    directory = save_weights("mistral", tmp_path)
    expected = load(directory)
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, directory / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    digest = load(directory).identity.digest

    wrong = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    save_file(wrong | {"layers.0.attention.wq.weight": torch.zeros(3)}, directory / "consolidated.safetensors")

    loaded = load(directory)
    assert torch.equal(activations(expected, Hookpoint(3)), activations(loaded, Hookpoint(3)))
    assert digest == loaded.identity.digest


@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_weights_released_in_bfloat16_run_in_float32(family: str, tmp_path: Path) -> None:
    """Stored in bfloat16 and read on a CPU, a reader computes what the untouched model computes in float32."""
    directory = save_weights(family, tmp_path)
    file = directory / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    reference = record(load_untouched(family, directory), TABLE[family].root)

    assert_same(reference["output of layers.3"], activations(load(directory), Hookpoint(3)))


def change_config(directory: Path, change: Callable[[dict], object]) -> None:
    file = directory / "config.json"
    config = json.loads(file.read_text())
    change(config.get("text_config", config))
    file.write_text(json.dumps(config))


def as_older_gemma3(config: dict) -> None:
    del config["layer_types"]
    rope = config.pop("rope_parameters")
    config |= {"sliding_window_pattern": 2, "rope_local_base_freq": rope["sliding_attention"]["rope_theta"]}
    config |= {"rope_theta": rope["full_attention"]["rope_theta"], "rope_scaling": {"rope_type": "linear", "factor": 8}}


def as_older_llama(config: dict) -> None:
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}


@pytest.mark.parametrize(
    ("family", "change"),
    [("gemma3_text", as_older_gemma3), ("gemma3", as_older_gemma3), ("llama", as_older_llama)],
    ids=["gemma3_text", "gemma3", "llama"],
)
def test_configurations_written_by_older_transformers_mean_the_same(
    family: str, change: Callable[[dict], None], tmp_path: Path
) -> None:
    """The released config.json say windows and rotary scaling in older words, and are read as meant."""
    directory = save_weights(family, tmp_path)
    expected = activations(load(directory), Hookpoint(3))

    change_config(directory, change)

    assert torch.equal(expected, activations(load(directory), Hookpoint(3)))


MATTERS: dict[str, tuple[str, Callable[[dict], object]]] = {
    "gemma2 cap": ("gemma2", lambda c: c.update(attn_logit_softcapping=500.0)),
    "gemma2 window": ("gemma2", lambda c: c.update(sliding_window=400)),
    "gemma3 window": ("gemma3", lambda c: c.update(sliding_window=400)),
    "gemma3 local rotation": ("gemma3", lambda c: c["rope_parameters"]["sliding_attention"].update(rope_theta=1e4)),
    "gemma3 scaling": ("gemma3_text", lambda c: c["rope_parameters"]["full_attention"].update(factor=1.0)),
    "gemma3 layer kinds": ("gemma3_text", lambda c: c["layer_types"].reverse()),
    "llama scaling": ("llama", lambda c: c["rope_parameters"].update(factor=1.0)),
    "mistral window": ("mistral", lambda c: c.update(sliding_window=None)),
    "qwen2 window": ("qwen2", lambda c: c.update(layer_types=["full_attention"] * LAYERS)),
    "qwen3 window": ("qwen3", lambda c: c.update(layer_types=["full_attention"] * LAYERS)),
}


@pytest.mark.parametrize(("family", "change"), MATTERS.values(), ids=MATTERS.keys())
def test_what_a_family_adds_to_attention_matters_here(
    family: str, change: Callable[[dict], object], tmp_path: Path
) -> None:
    """The test readers would notice a lost window, cap or rotary setting: without it their activations are others."""
    directory = save_weights(family, tmp_path)
    whole = activations(load(directory), Hookpoint(3))

    change_config(directory, change)

    assert max(LENGTHS) > WINDOW
    assert difference(activations(load(directory), Hookpoint(3)), whole) > 1e-3


def test_attention_is_ours(subject: Subject) -> None:
    """Every family runs the attention for packed texts; the identity says so."""
    assert ("packed", "packed") == (
        subject.reader.model.config._attn_implementation,
        subject.reader.identity.attention,
    )


@pytest.mark.parametrize(("family", "other"), [("llama", "eager"), ("gemma3", "eager"), ("gemma2", "flex_attention")])
def test_another_attention_than_asked_for_is_refused(
    family: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If transformers ran another attention than it was asked for, the reader would not start."""
    directory = save_weights(family, tmp_path)
    original = PreTrainedModel._from_config.__func__

    def stubborn(cls: type, *arguments: object, **named: object) -> object:
        return original(cls, *arguments, **(named | {"attn_implementation": other}))

    monkeypatch.setattr(PreTrainedModel, "_from_config", classmethod(stubborn))

    with pytest.raises(ReaderError, match=f"runs {other} attention"):
        load(directory)


def add_weight(name: str, tensor: torch.Tensor) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        file = directory / "model.safetensors"
        save_file(load_file(file) | {name: tensor}, file, metadata={"format": "pt"})

    return change


def set_config(**changes: object) -> Callable[[Path], None]:
    return lambda directory: change_config(directory, lambda config: config.update(changes))


UNUSABLE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a bias without a place": (
        "llama",
        add_weight("model.layers.1.self_attn.q_proj.bias", torch.ones(32)),
        r"the weights hold layers\.1\.self_attn\.q_proj\.bias, which config\.json has no place for",
    ),
    "eight-bit weights": (
        "llama",
        add_weight("model.layers.1.mlp.up_proj.weight", torch.zeros(48, 32, dtype=torch.int8)),
        r"layers\.1\.mlp\.up_proj\.weight is stored as int8; quantised",
    ),
    "eight-bit floats": (
        "qwen3",
        add_weight("model.embed_tokens.weight", torch.zeros(512, 32).to(torch.float8_e4m3fn)),
        r"embed_tokens\.weight is stored as float8_e4m3fn; quantised",
    ),
    "declared quantised": (
        "qwen3",
        set_config(quantization_config={"quant_method": "fp8"}),
        "quantization_config; quantised weights are not read",
    ),
    "looking ahead": ("gemma3_text", set_config(use_bidirectional_attention=True), "attention is not causal"),
    "no list of causes": ("llama", set_config(is_causal=False), "attention is not causal"),
    "rotation by batch length": (
        "llama",
        set_config(
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 64,
            }
        ),
        "rope type longrope is not supported",
    ),
    "text without its names": (
        "gemma3",
        lambda d: rename_weights(d, {"language_model.model.": "text/"}),
        r"the weights lack embed_tokens\.weight and \d+ more",
    ),
    "index not JSON": (
        "mistral",
        lambda d: (
            (d / "model.safetensors").rename(d / "model-1.safetensors"),
            (d / "model.safetensors.index.json").write_text("[]"),
        ),
        r"model\.safetensors\.index\.json is damaged",
    ),
    "index leads out": (
        "mistral",
        lambda d: (
            (d / "model.safetensors").rename(d.parent / "outside.safetensors"),
            (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../outside.safetensors"}}'),
        ),
        r"names outside\.safetensors, which is not there",
    ),
}


@pytest.mark.parametrize(("family", "change", "told"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_reader_that_would_read_something_else_is_refused(
    family: str, change: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    """What would change activations without a word is refused in one line that names it."""
    directory = save_weights(family, tmp_path / "reader")
    change(directory)

    with pytest.raises(ReaderError, match=told) as caught:
        load(directory)

    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rotary_tables_of_old_files_are_ignored(tmp_path: Path) -> None:
    """Files of older transformers hold a table that the configuration gives as well; it is no obstacle."""
    directory = save_weights("llama", tmp_path)
    expected = activations(load(directory), Hookpoint(1))

    add_weight("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))(directory)

    assert torch.equal(expected, activations(load(directory), Hookpoint(1)))


def test_a_pair_does_not_feel_its_neighbours(subject: Subject) -> None:
    """A sequence has the same activations alone as beside longer ones."""
    batch = subject.at("resid_post", LAYERS - 1)
    with taken(subject.reader, Hookpoint(LAYERS - 1)) as alone, torch.no_grad():
        subject.reader.model(input_ids=sequences()[-1][None], use_cache=False)

    assert_same(alone[Hookpoint(LAYERS - 1)][0], batch[-LENGTHS[-1] :])
    assert np.isfinite(batch.numpy()).all()
