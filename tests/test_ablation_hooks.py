"""What is taken out of a reader: as hand-written hooks on transformers' own model do it, in every family."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from conftest import D_SAE, sae_arrays, save_sae
from families import FAMILIES, HEADS, HIDDEN, LAYERS, TABLE, load_untouched, save_family
from released import library
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.inside import Inside
from scopewatch.engine.looks import Removed
from scopewatch.engine.passes import Passes, untouched
from scopewatch.errors import SaeError
from scopewatch.identity import ENTROPY, LOGPROB, FeatureKey
from scopewatch.reader.hookpoints import Hookpoint, edit
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import Reading
from scopewatch.sae.pack import write_probe
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, TokenisedPair
from test_dictionary import save_saelens
from test_head import expected
from test_inside import dense, done, jumprelu, tokens_of

Array = NDArray[np.float64]
TAKEN = (3, 7, 21, 40)
LAYER, LATE = 1, 3
PAIR = Pair("what is the answer to this question?", "Insulin lowers blood sugar, perhaps. " * 3)
# Where the stream, and what is added to it, can be reached by a hook of transformers' modules in layer 1.
ON_GEMMA = {
    "resid_pre": ("input", ""),
    "resid_mid": ("output", "post_attention_layernorm"),
    "resid_post": ("output", ""),
    "attn_z": ("input", "self_attn.o_proj"),
    "attn_out": ("output", "post_attention_layernorm"),
    "mlp_in": ("output", "pre_feedforward_layernorm"),
    "mlp_out": ("output", "post_feedforward_layernorm"),
    "self_attn.output": ("output", "self_attn"),
}
ON_OTHERS = ON_GEMMA | {
    "resid_mid": ("output", "self_attn"),
    "attn_out": ("output", "self_attn"),
    "mlp_in": ("output", "post_attention_layernorm"),
    "mlp_out": ("output", "mlp"),
}
MID = {True: "pre_feedforward_layernorm", False: "post_attention_layernorm"}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def directory(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def model(family: str, directory: Path) -> PreTrainedModel:
    return load_untouched(family, directory)


def at(model: PreTrainedModel, family: str, layer: int, name: str = "") -> torch.nn.Module:
    """A module of a layer of the untouched model."""
    return model.get_submodule(".".join(filter(None, [TABLE[family].root, f"layers.{layer}", name])))


@contextmanager
def hooked(module: torch.nn.Module, end: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """A hand-written hook, that puts something else in place of a module's first input or output."""

    def before(_module: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (change(inputs[0]), *inputs[1:])

    def after(_module: object, _inputs: object, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_pre_hook(before) if end == "input" else module.register_forward_hook(after)
    yield
    handle.remove()


def run(model: PreTrainedModel, ids: NDArray[np.int32]) -> None:
    with torch.no_grad():
        model(input_ids=torch.from_numpy(ids.astype(np.int64))[None])


def taken_at(model: PreTrainedModel, ids: NDArray[np.int32], module: torch.nn.Module, end: str) -> Array:
    """What a module of the untouched model is given or gives, shape (tokens, width)."""
    caught: list[torch.Tensor] = []
    with hooked(module, end, lambda x: caught.append(x) or x):
        run(model, ids)
    return caught[0][0].double().numpy()


def an_engine(directory: Path, *choices: SaeChoice, **settings: Any) -> Engine:
    return build_engine(ReaderSource(path=str(directory)), choices, Config(explain_whole=True, **settings))


def sae_at(folder: Path, hookpoint: str, d_in: int, name: str = "taken") -> SaeChoice:
    """A JumpReLU SAE of random weights at some place, of which `TAKEN` are watched."""
    file = save_sae(folder / name, LAYER, **sae_arrays(11, d_in=d_in))
    return SaeChoice(name, SaeSource(path=str(file), hookpoint=hookpoint), dict.fromkeys(TAKEN, ""))


def late(folder: Path) -> SaeChoice:
    """An SAE behind the last layer, all of whose features are watched."""
    file = save_sae(folder / "late", LATE, **sae_arrays(12))
    return SaeChoice("late", SaeSource(path=str(file)), dict.fromkeys(range(D_SAE), ""))


def assert_as_hooked(removed: Removed, engine: Engine, hand: tuple[Array, Array]) -> None:
    """The late features and the predictions are those of the hooked model, within 1e-4."""
    of = [f for f in engine.identity.features if f.sae != "late"]
    table = dense(removed.covered, len(of) + D_SAE + 2)
    x, predictions = hand
    f = jumprelu(x, Path(engine.watching.saes[0].source.path))[0]
    assert (f != 0).any()
    np.testing.assert_allclose(table[:, :D_SAE], f, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(table[:, -2:], predictions, rtol=1e-4, atol=1e-4)


def read_by_hand(model: PreTrainedModel, family: str, ids: NDArray[np.int32]) -> tuple[Array, Array]:
    """What the last layer gives, and the predictions, under whatever hooks there are."""
    return taken_at(model, ids, at(model, family, LATE), "output"), expected(model, ids)


@pytest.mark.parametrize("site", ON_OTHERS)
def test_ablation_is_a_hand_written_hook(
    site: str, family: str, directory: Path, model: PreTrainedModel, tmp_path: Path
) -> None:
    """In every family and at every site, what was taken out changes all that follows as the hand-written hook does."""
    row = TABLE[family]
    end, name = (ON_GEMMA if row.gemma else ON_OTHERS)[site]
    d_in = row.head_dim * HEADS if site == "attn_z" else HIDDEN
    taken = sae_at(tmp_path, f"layers.{LAYER}.{site}", d_in)
    engine = an_engine(directory, late(tmp_path), taken)
    tokens = tokens_of(engine, PAIR)
    removed = done(Inside(engine).remove(tokens, [FeatureKey("taken", index) for index in TAKEN]))

    module = at(model, family, LAYER, name)
    read = at(model, family, LAYER, MID[row.gemma]) if site == "resid_mid" else module
    x = taken_at(model, tokens.ids, read, "input" if site == "resid_mid" else end)
    delta = jumprelu(x, Path(taken.source.path))[0][:, TAKEN] @ np.load(taken.source.path)["W_dec"][list(TAKEN)]
    clean = read_by_hand(model, family, tokens.ids)
    with hooked(module, end, lambda x: x - torch.from_numpy(delta).float()):
        hand = read_by_hand(model, family, tokens.ids)

    assert np.abs(hand[0] - clean[0]).max() > 0.01
    assert np.abs(hand[1] - clean[1]).max() > 0.001
    assert_as_hooked(removed, engine, hand)
    there = np.linalg.norm(delta, axis=1)
    assert removed.removed == pytest.approx((there / np.linalg.norm(x, axis=1))[there > 0].mean(), rel=1e-4)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("gemma2", tmp_path_factory.mktemp("gemma2"))


@pytest.fixture(scope="module")
def untouched_gemma(gemma: Path) -> PreTrainedModel:
    return load_untouched("gemma2", gemma)


def test_every_window_of_a_long_pair_is_read_without_it(
    gemma: Path, untouched_gemma: PreTrainedModel, tmp_path: Path
) -> None:
    """In each window what fired there is taken out there, template tokens included."""
    taken = sae_at(tmp_path, "layers.1.resid_post", HIDDEN)
    engine = an_engine(gemma, late(tmp_path), taken, max_tokens=48, max_windows=4)
    tokens = tokens_of(engine, Pair("what is the answer?", "Insulin lowers blood sugar, perhaps. " * 12))
    removed = done(Inside(engine).remove(tokens, [FeatureKey("taken", index) for index in TAKEN]))
    W_dec = np.load(taken.source.path)["W_dec"][list(TAKEN)]
    module = at(untouched_gemma, "gemma2", LAYER)
    hand, template = [], 0.0
    for window, segments in zip(
        tokens.windows, np.split(tokens.segments, np.cumsum(tokens.window_tokens)), strict=False
    ):
        x = taken_at(untouched_gemma, window, module, "output")
        delta = jumprelu(x, Path(taken.source.path))[0][:, TAKEN] @ W_dec
        template += float(np.abs(delta[segments == 0]).sum())
        with hooked(module, "output", lambda x, delta=delta: x - torch.from_numpy(delta).float()):
            hand.append(read_by_hand(untouched_gemma, "gemma2", window))

    assert 3 <= len(tokens.windows)
    assert template > 1
    x, predictions = (np.concatenate(parts) for parts in zip(*hand, strict=True))
    assert_as_hooked(removed, engine, (x, predictions))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("topk", {"k": 9}),
        ("topk", {"k": 9, "rescale_acts_by_decoder_norm": True}),
        ("gated", {}),
        ("gated", {"normalize_activations": "layer_norm"}),
        ("gated", {"normalize_activations": "constant_norm_rescale"}),
    ],
    ids=["topk", "topk rescaled", "gated", "layer norm", "norm of sqrt d"],
)
def test_what_every_architecture_wrote_is_taken_out(
    kind: str, settings: dict[str, Any], gemma: Path, untouched_gemma: PreTrainedModel, tmp_path: Path
) -> None:
    """What is taken out is what SAELens' decoder makes of all features less what it makes without those."""
    folder = save_saelens(tmp_path / kind, kind, **settings)
    taken = SaeChoice("taken", SaeSource(path=str(folder)), dict.fromkeys(TAKEN, ""))
    engine = an_engine(gemma, late(tmp_path), taken)
    tokens = tokens_of(engine, PAIR)
    removed = done(Inside(engine).remove(tokens, [FeatureKey("taken", index) for index in TAKEN]))

    theirs = library("sae_lens").SAE.load_from_disk(folder).double()
    module = at(untouched_gemma, "gemma2", LAYER)
    x = torch.from_numpy(taken_at(untouched_gemma, tokens.ids, module, "output"))
    with torch.no_grad():
        f = theirs.encode(x)
        without = f.clone()
        without[:, TAKEN] = 0
        whole, rest = theirs.decode(f), theirs.decode(theirs.encode(x) * (without != 0))
    delta = (whole - rest).float()
    with hooked(module, "output", lambda x: x - delta):
        hand = read_by_hand(untouched_gemma, "gemma2", tokens.ids)

    assert delta.abs().max() > 0.01
    assert_as_hooked(removed, engine, hand)


def test_what_a_transcoder_wrote_is_taken_out_where_it_writes(
    gemma: Path, untouched_gemma: PreTrainedModel, tmp_path: Path
) -> None:
    """A transcoder that reads the MLP's input is taken out of the MLP's output."""
    file = tmp_path / "gemma-scope-2b-pt-transcoders/layer_1/width_64/average_l0_20/params.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **sae_arrays(6))
    source = SaeSource(path=str(file), hookpoint="layers.1.mlp_in")
    engine = an_engine(gemma, late(tmp_path), SaeChoice("taken", source, dict.fromkeys(TAKEN, "")))
    tokens = tokens_of(engine, PAIR)
    removed = done(Inside(engine).remove(tokens, [FeatureKey("taken", index) for index in TAKEN]))

    reads, writes = (at(untouched_gemma, "gemma2", LAYER, f"{name}_feedforward_layernorm") for name in ("pre", "post"))
    x = taken_at(untouched_gemma, tokens.ids, reads, "output")
    delta = torch.from_numpy(jumprelu(x, file)[0][:, TAKEN] @ np.load(file)["W_dec"][list(TAKEN)]).float()
    with hooked(writes, "output", lambda x: x - delta):
        hand = read_by_hand(untouched_gemma, "gemma2", tokens.ids)

    assert_as_hooked(removed, engine, hand)


def test_several_saes_are_taken_out_together(gemma: Path, untouched_gemma: PreTrainedModel, tmp_path: Path) -> None:
    """Of each SAE what fired in the clean run, though the one lies behind the other."""
    first, second = (
        sae_at(tmp_path, f"layers.{n}.resid_post", HIDDEN, name) for n, name in ((0, "first"), (1, "second"))
    )
    engine = an_engine(gemma, late(tmp_path), first, second)
    tokens = tokens_of(engine, PAIR)
    features = [FeatureKey("second", 7), FeatureKey("first", 3), FeatureKey("first", 40)]
    removed = done(Inside(engine).remove(tokens, features))

    modules = [at(untouched_gemma, "gemma2", layer) for layer in (0, 1)]
    deltas = []
    for module, sae, index in zip(modules, (first, second), ([3, 40], [7]), strict=True):
        x = taken_at(untouched_gemma, tokens.ids, module, "output")
        deltas.append(
            torch.from_numpy(
                jumprelu(x, Path(sae.source.path))[0][:, index] @ np.load(sae.source.path)["W_dec"][index]
            ).float()
        )
    with (
        hooked(modules[0], "output", lambda x: x - deltas[0]),
        hooked(modules[1], "output", lambda x: x - deltas[1]),
    ):
        hand = read_by_hand(untouched_gemma, "gemma2", tokens.ids)

    assert_as_hooked(removed, engine, hand)


# As much of something else.


def changes(engine: Engine, tokens: TokenisedPair, features: list[FeatureKey], seed: int | None) -> Array:
    """What layer 1 gives less what layer 2 is given, token by token: what was taken out between them."""
    gives: list[torch.Tensor] = []
    given: list[torch.Tensor] = []
    layers = engine.reader.layers
    handles = [
        layers[1].register_forward_hook(lambda _m, _i, output: gives.append(output.clone())),
        layers[2].register_forward_pre_hook(lambda _m, inputs: given.append(inputs[0].clone())),
    ]
    done(Inside(engine).remove(tokens, features, seed=seed))
    for handle in handles:
        handle.remove()
    return (gives[-1] - given[-1])[0].double().numpy()


def test_random_features_have_the_norm_that_was_taken_out(gemma: Path, tmp_path: Path) -> None:
    """On every token as much is taken out as of the features themselves, in other directions, the same for a seed."""
    engine = an_engine(gemma, late(tmp_path), sae_at(tmp_path, "layers.1.resid_post", HIDDEN))
    tokens = tokens_of(engine, PAIR)
    features = [FeatureKey("taken", index) for index in TAKEN]
    own, one, again, other = (changes(engine, tokens, features, seed) for seed in (None, 1, 1, 2))

    norms = np.linalg.norm(own, axis=1)
    assert (norms > 0).any()
    for random in (one, other):
        np.testing.assert_allclose(np.linalg.norm(random, axis=1), norms, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
    assert np.abs(one - own).max() > 0.01


def test_random_directions_are_other_features_of_the_same_sae(gemma: Path, tmp_path: Path) -> None:
    """In place of one feature stands the decoder row of another one, and never of one that writes nothing."""
    silent = sae_arrays(11)
    silent["W_dec"][10:] = 0
    silent["b_enc"][3] = 3
    choice = sae_at(tmp_path, "layers.1.resid_post", HIDDEN)
    np.savez(choice.source.path, **silent)
    engine = an_engine(gemma, late(tmp_path), choice)
    tokens = tokens_of(engine, PAIR)
    rows = set()
    for seed in range(12):
        change = changes(engine, tokens, [FeatureKey("taken", 3)], seed)
        strong = change[np.linalg.norm(change, axis=1) > 0.1]
        cosines = strong @ silent["W_dec"][:10].T / np.linalg.norm(strong, axis=1, keepdims=True)
        assert len(set(cosines.argmax(axis=1))) == 1
        np.testing.assert_allclose(cosines.max(axis=1), 1, rtol=1e-4)
        rows.add(int(cosines.argmax(axis=1)[0]))

    assert len(rows) > 3
    assert rows < set(range(10)) - {3}


def test_a_share_says_how_much_was_taken_out(gemma: Path, tmp_path: Path) -> None:
    """Random features take out the same share; with nothing taken out it is 0, and the reading is the clean one."""
    engine = an_engine(gemma, late(tmp_path), sae_at(tmp_path, "layers.1.resid_post", HIDDEN))
    inside, tokens = Inside(engine), tokens_of(engine, PAIR)
    features = [FeatureKey("taken", index) for index in TAKEN]
    own, random, nothing = (
        done(inside.remove(tokens, of, seed=seed)) for of, seed in ((features, None), (features, 5), ([], None))
    )

    assert own.removed > 0.01
    assert own.removed == pytest.approx(random.removed, rel=1e-4)
    assert 0 == nothing.removed
    clean = inside.read(tokens)
    np.testing.assert_array_equal(clean.activations.value, nothing.covered.activations.value)
    assert clean.table is own.covered.table
    assert (LOGPROB, ENTROPY) == (FeatureKey("reader:head", 0), FeatureKey("reader:head", 1))


def test_a_removal_is_of_what_was_watched_when_it_began(gemma: Path, tmp_path: Path) -> None:
    """When other watchlists are taken between two steps, the columns stay those that the table names."""
    taken = sae_at(tmp_path, "layers.1.resid_post", HIDDEN)
    engine = an_engine(gemma, late(tmp_path), taken)
    inside, tokens = Inside(engine), tokens_of(engine, PAIR)
    features = [FeatureKey("taken", index) for index in TAKEN]
    expected_of = done(inside.remove(tokens, features))
    steps = Inside(engine).remove(tokens, features)
    next(steps)
    engine.install(engine.prepare([taken], head=False))
    removed = done(steps)

    assert expected_of.covered.table.features == removed.covered.table.features
    np.testing.assert_array_equal(expected_of.covered.activations.value, removed.covered.activations.value)


# What cannot be taken out.


def test_what_cannot_be_taken_out_is_an_error_that_says_why(gemma: Path, tmp_path: Path) -> None:
    """Probes, SAEs without a decoder, sites beside the stream, and features that nobody watches, each by its name."""
    probe = tmp_path / "probe.safetensors"
    write_probe(probe, np.ones(HIDDEN, np.float32), np.zeros(1, np.float32), hookpoint="layers.1.resid_post")
    choices = [
        SaeChoice("probe", SaeSource(path=str(probe)), {0: ""}),
        sae_at(tmp_path, "layers.1.mlp_in_unit", HIDDEN, "unit"),
        sae_at(tmp_path, "embed", HIDDEN, "embed"),
        sae_at(tmp_path, "layers.1.resid_post", HIDDEN, "few"),
    ]
    few = sae_arrays(11)
    few["W_dec"][5:] = 0
    np.savez(choices[3].source.path, **few)
    inside = Inside(engine := an_engine(gemma, *choices))
    tokens = tokens_of(engine, PAIR)
    for features, seed, problem in (
        ([FeatureKey("probe", 0)], None, "probe: nothing of it can be taken out: a probe has no dictionary"),
        ([FeatureKey("unit", 3)], None, "hookpoint layers.1.mlp_in_unit: nothing can be taken out there"),
        ([FeatureKey("embed", 3)], None, "hookpoint embed: nothing can be taken out there"),
        ([FeatureKey("few", 4)], None, "few/4: is not watched"),
        ([FeatureKey("other", 3)], None, "other/3: is not watched"),
        ([LOGPROB], None, "reader:head: nothing of it can be taken out: is no feature of an SAE"),
        ([FeatureKey("few", index) for index in TAKEN] * 2, 1, ""),
        ([FeatureKey("few", index) for index in (3, 7, 21, 40)], 2, ""),
    ):
        if problem:
            with pytest.raises(SaeError, match=problem):
                done(inside.remove(tokens, features, seed=seed))
        else:
            done(inside.remove(tokens, features, seed=seed))


def test_too_few_other_features_are_an_error(gemma: Path, tmp_path: Path) -> None:
    """Where all but the features themselves write nothing there is nothing to hold them against."""
    arrays = sae_arrays(11)
    arrays["W_dec"][[i for i in range(D_SAE) if i not in TAKEN]] = 0
    choice = sae_at(tmp_path, "layers.1.resid_post", HIDDEN)
    np.savez(choice.source.path, **arrays)
    engine = an_engine(gemma, choice)

    with pytest.raises(SaeError, match=r"params\.npz: has too few other features to hold 4 of them against"):
        done(Inside(engine).remove(tokens_of(engine, PAIR), [FeatureKey("taken", index) for index in TAKEN], seed=0))


# Edits themselves.


@pytest.fixture(scope="module")
def reader(gemma: Path) -> Reader:
    return load_reader(gemma, name="r", revision="", deepest_layer=LAYERS - 1, device="cpu", dtype="float32", head=True)


PLACES = (
    *(Hookpoint(1, site) for site in ON_GEMMA),
    *(Hookpoint(1, f"{path}.input") for path in ("input_layernorm", "self_attn", "mlp", "pre_feedforward_layernorm")),
    Hookpoint(-1, "embed_tokens.output"),
)


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_tap_sees_what_was_changed_there(place: Hookpoint, reader: Reader) -> None:
    """A tap beside an edit sees the change, what comes behind it is another, and without the edit all is as before."""
    reading = [Reading(np.arange(3, 30, dtype=np.int32), ())]
    taps = {place: torch.clone, Hookpoint(LATE): untouched}
    with torch.inference_mode():
        clean, changed, again = (
            Passes(reader).read(reading, taps, edits=edits, whole=True)
            for edits in ({}, {place: lambda x: x * 0.5 + 1}, {})
        )

    torch.testing.assert_close(changed.tapped[place], clean.tapped[place] * 0.5 + 1, rtol=1e-6, atol=1e-6)
    assert (changed.states - clean.states).abs().max() > 0.01
    torch.testing.assert_close(again.states, clean.states, rtol=0, atol=0)


def test_an_edit_at_the_stream_changes_the_stream(reader: Reader) -> None:
    """An edit before a norm inside the layer is in the sum behind it too: what the layer gives moves by as much."""
    reading = [Reading(np.arange(3, 30, dtype=np.int32), ())]
    far = 1000.0
    with torch.inference_mode():
        for site in ("resid_mid", "pre_feedforward_layernorm.input", "resid_pre", "input_layernorm.input"):
            clean, changed = (
                Passes(reader).read(reading, {Hookpoint(1): untouched}, edits=edits)
                for edits in ({}, {Hookpoint(1, site): lambda x: x + far})
            )
            moved = changed.tapped[Hookpoint(1)] - clean.tapped[Hookpoint(1)]
            assert (moved - far).abs().max() < far / 10


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (Hookpoint(1, "mlp_in_unit"), "nothing can be taken out there; it is computed beside"),
        (Hookpoint(-1, "embed"), "nothing can be taken out there"),
        (Hookpoint(-1, "resid_post"), "before layer 0 there are only embed"),
        (Hookpoint(9), "loaded down to layer 3"),
        (Hookpoint(1, "attention.output"), "readers have no such module"),
    ],
    ids=str,
)
def test_places_where_nothing_flows_on_are_refused(place: Hookpoint, problem: str, reader: Reader) -> None:
    """With the reason, before anything runs."""
    with pytest.raises(SaeError, match=problem):
        edit(reader, place, torch.clone)
