"""The numbers: watched activations equal those of the untouched model and of SAELens, whatever shares the batch."""

import gc
import logging
import warnings
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import Gemma2ForCausalLM

from conftest import D_SAE, HIDDEN, House, save_sae
from scopewatch.config import Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice, choices
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.engine.token_activations import token_activations
from scopewatch.errors import EngineDied, EngineError, InvalidRequest
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.sae.open import open_sae
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, EncodedBatch, Pair, Segment, TokenisedPair, Turn
from scopewatch.watch.watchlist import load_watchlist

TOLERANCE = 1e-5
"""Relative; of single activations, and of the largest for those that nearly fire."""
VOCABULARY = 500
Ids = NDArray[np.int32]
Dense = NDArray[np.float64]


@dataclass(frozen=True)
class Watched:
    """An SAE as the engine is asked for it: file, layer, features in the order asked."""

    name: str
    file: Path
    layer: int
    features: list[int]


class Reference:
    """The whole untouched causal LM, and JumpReLU over all features in float64."""

    def __init__(self, directory: Path, watched: Sequence[Watched]) -> None:
        self._model = Gemma2ForCausalLM.from_pretrained(directory, attn_implementation="eager")
        self._streams: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self._model.model.layers):
            layer.register_forward_hook(self._keep(number))
        self._watched = watched
        self._arrays = {sae.name: {k: v.astype(np.float64) for k, v in np.load(sae.file).items()} for sae in watched}

    def _keep(self, number: int) -> Any:
        def hook(_module: object, _inputs: object, output: object) -> None:
            self._streams[number] = (output[0] if isinstance(output, tuple) else output)[0]

        return hook

    def streams(self, ids: Ids) -> dict[int, torch.Tensor]:
        """Residual stream after every layer, each of shape (n_tokens, d_in)."""
        with torch.no_grad():
            self._model(input_ids=torch.tensor(ids.astype(np.int64))[None])
        return dict(self._streams)

    def __call__(self, ids: Ids) -> tuple[Dense, Dense]:
        """Pre-activations and thresholds of the watched features: SAEs as listed, features ascending."""
        streams = self.streams(ids)
        pres, thresholds = [], []
        for sae in self._watched:
            arrays, columns = self._arrays[sae.name], sorted(sae.features)
            every = streams[sae.layer].double().numpy() @ arrays["W_enc"] + arrays["b_enc"]
            pres.append(every[:, columns])
            thresholds.append(arrays["threshold"][columns])
        return np.concatenate(pres, axis=1), np.concatenate(thresholds)


def dense(encoded: Activations | Exception, columns: int) -> Dense:
    assert isinstance(encoded, Activations), encoded
    table = np.zeros((encoded.n_tokens, columns))
    table[encoded.token, encoded.column] = encoded.value
    return table


def assert_same(pre: Dense, threshold: Dense, encoded: Activations | Exception) -> None:
    """Equal up to rounding; only a feature within rounding of its threshold may fire or not."""
    actual = dense(encoded, len(threshold))
    expected = np.where(pre > threshold, pre, 0)
    rounding = TOLERANCE * np.abs(pre).max()
    settled = np.abs(pre - threshold) > rounding
    np.testing.assert_array_equal(expected[settled] > 0, actual[settled] > 0)
    np.testing.assert_allclose(actual[settled], expected[settled], rtol=TOLERANCE, atol=rounding)


def random_ids(rng: np.random.Generator, length: int) -> Ids:
    return np.concatenate([[2], rng.integers(6, VOCABULARY, length - 1)]).astype(np.int32)


def build(directory: Path, watched: Sequence[Watched], **settings: object) -> Engine:
    asked = [
        SaeChoice(sae.name, SaeSource(path=str(sae.file)), wanted=dict.fromkeys(sae.features, "")) for sae in watched
    ]
    return build_engine(ReaderSource(path=str(directory)), asked, Config(**settings))


@dataclass(frozen=True)
class Lab:
    """An engine with three SAEs, two of them at one hookpoint and not in the order of layers, beside its reference."""

    engine: Engine
    reference: Reference
    watched: list[Watched]
    directory: Path


@pytest.fixture(scope="module", params=["chat", "plain"])
def lab(
    request: pytest.FixtureRequest, house: House, plain_house: House, tmp_path_factory: pytest.TempPathFactory
) -> Lab:
    """The same SAEs on the reader with a chat template and on the one without."""
    home = house if request.param == "chat" else plain_house
    other = save_sae(tmp_path_factory.mktemp("other"), 2, seed=9)
    watched = [
        Watched("late", home.saes["late"], 2, [61, 0, 7, 33]),
        Watched("mid", home.saes["mid"], 1, list(range(D_SAE - 1, -1, -1))),
        Watched("other", other, 2, [5, 40, 12]),
    ]
    return Lab(build(home.reader, watched), Reference(home.reader, watched), watched, home.reader)


CONVERSATIONS = {
    "short": Pair("hello", "world"),
    "long": Pair("what is the answer to this question? " * 6, "Insulin lowers blood sugar. " * 8),
    "emoji": Pair("👩🏽‍🚀?", "well 👨‍👩‍👧 and 你好"),
    "history": Pair("and now?", "perhaps rain", (Turn("user", "weather?"), Turn("assistant", "sunny"))),
    "empty response": Pair("hello", ""),
}


def tokens_of(engine: Engine, pair: Pair) -> TokenisedPair:
    (tokens,) = engine.tokeniser.tokenise([pair])
    assert isinstance(tokens, TokenisedPair)
    return tokens


@pytest.mark.parametrize("pair", CONVERSATIONS.values(), ids=CONVERSATIONS.keys())
def test_activations_equal_the_untouched_model(lab: Lab, pair: Pair) -> None:
    """Reading a conversation down to the watched layers gives what the whole model and a full float64 SAE give."""
    ids = tokens_of(lab.engine, pair).ids

    (encoded,) = lab.engine.runner([ids]).activations

    assert_same(*lab.reference(ids), encoded)


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=7), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_company_does_not_change_a_pair(lab: Lab, lengths: list[int], seed: int) -> None:
    """In any batch, of any lengths and in any order, every pair's activations are those of the untouched model."""
    rng = np.random.default_rng(seed)
    batch = [random_ids(rng, length) for length in lengths]

    encoded = lab.engine.runner(batch).activations

    assert len(batch) == len(encoded)
    for ids, one in zip(batch, encoded, strict=True):
        assert_same(*lab.reference(ids), one)


@pytest.mark.parametrize("row_tokens", [1, 40, 200, 450, 10_000])
def test_the_length_of_rows_does_not_change_a_pair(house: House, row_tokens: int) -> None:
    """However a batch is cut into forward passes, every pair keeps its place and its activations."""
    watched = [Watched("late", house.saes["late"], 2, list(range(D_SAE)))]
    encoder = PlacedEncoder(Hookpoint(2), open_sae(house.saes["late"]).encoder(watched[0].features))
    reader = a_reader(house)
    runner = Runner(reader, [encoder], row_tokens=row_tokens)
    passes = watch_passes(reader)
    reference = Reference(house.reader, watched)
    rng = np.random.default_rng(5)
    batch = [random_ids(rng, length) for length in (3, 150, 40, 1, 150, 39, 120, 17, 2)]

    encoded = runner(batch)

    for ids, one in zip(batch, encoded.activations, strict=True):
        assert_same(*reference(ids), one)
    # The text of one token, where it is alone in its row, stands in a row of two.
    assert sum(map(len, batch)) + (row_tokens <= 40) == sum(columns for _, columns in passes)
    assert {True} == {(rows, columns <= max(row_tokens, 150)) == (1, True) for rows, columns in passes}


def test_sae_lens_gives_the_same_activations(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAELens, loading the same files by its own Gemma Scope loader, agrees feature by feature."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sae_lens import JumpReLUSAE
        from sae_lens.loading import pretrained_sae_loaders as loaders
    ids = tokens_of(lab.engine, CONVERSATIONS["long"]).ids
    streams = lab.reference.streams(ids)
    pre, threshold = lab.reference(ids)
    expected = []
    for sae in lab.watched:
        monkeypatch.setattr(loaders, "hf_hub_download", lambda file=sae.file, **_: str(file))
        config, state, _ = loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res",
            f"layer_{sae.layer}/width_16k/average_l0_71",
            cfg_overrides={"d_in": HIDDEN, "d_sae": D_SAE},
        )
        theirs = JumpReLUSAE.from_dict(loaders.handle_config_defaulting(config))
        theirs.load_state_dict(state)
        with torch.no_grad():
            expected.append(theirs.encode(streams[sae.layer])[:, sorted(sae.features)].double().numpy())

    (encoded,) = lab.engine.runner([ids]).activations

    theirs_dense, ours = np.concatenate(expected, axis=1), dense(encoded, len(threshold))
    rounding = TOLERANCE * np.abs(pre).max()
    settled = np.abs(pre - threshold) > rounding
    np.testing.assert_allclose(ours[settled], theirs_dense[settled], rtol=TOLERANCE, atol=rounding)
    np.testing.assert_array_equal(theirs_dense[settled] > 0, ours[settled] > 0)


def test_the_comparison_would_notice(lab: Lab) -> None:
    """The reference fires often and is far from nothing, so equality with it means something."""
    pre, threshold = lab.reference(random_ids(np.random.default_rng(3), 100))
    fired = pre > threshold

    assert 0.1 < fired.mean() < 0.9
    assert fired.any(axis=0).mean() > 0.9
    assert (~fired).any(axis=0).mean() > 0.9


def test_columns_stand_in_the_order_of_the_identity(lab: Lab) -> None:
    """`Activations.column` counts the engine's features: SAEs as asked for, each one's features ascending."""
    expected = [(sae.name, index) for sae in lab.watched for index in sorted(sae.features)]
    ids = random_ids(np.random.default_rng(4), 60)
    together = dense(lab.engine.runner([ids]).activations[0], len(expected))

    assert expected == [(key.sae, key.index) for key in lab.engine.identity.features]
    for number, (name, index) in enumerate(expected):
        (sae,) = (sae for sae in lab.watched if sae.name == name)
        if number % 9 == 0:
            alone = build(lab.directory, [Watched(name, sae.file, sae.layer, [index])])
            np.testing.assert_allclose(
                dense(alone.runner([ids]).activations[0], 1)[:, 0], together[:, number], rtol=1e-4, atol=1e-4
            )


def test_activations_are_sorted_positive_and_typed(lab: Lab) -> None:
    """What the engine gives is as `Activations` promises: by token, then column, positive, finite, compact."""
    rng = np.random.default_rng(6)
    for encoded in lab.engine.runner([random_ids(rng, length) for length in (50, 1, 31)]).activations:
        assert isinstance(encoded, Activations)
        places = list(zip(encoded.token.tolist(), encoded.column.tolist(), strict=True))
        assert sorted(set(places)) == places
        assert np.isfinite(encoded.value).all()
        assert (encoded.value > 0).all()
        assert (np.int32, np.int32, np.float32) == (encoded.token.dtype, encoded.column.dtype, encoded.value.dtype)


def test_timings_are_reported(lab: Lab) -> None:
    """A batch reports times that are not negative, and no reuse where nothing was kept."""
    rng = np.random.default_rng(7)

    encoded = lab.engine.runner([random_ids(rng, length) for length in (20, 18)])

    assert 0 == encoded.reused_tokens
    assert encoded.forward_s >= 0
    assert encoded.encode_s >= 0


def test_an_empty_batch_is_answered(lab: Lab) -> None:
    """Nothing in, nothing out."""
    assert EncodedBatch([], 0.0, 0.0).activations == lab.engine.runner([]).activations


# Failures.

MARK = 77


def a_reader(house: House, deepest_layer: int = 2) -> Reader:
    return load_reader(house.reader, name="r", revision="", deepest_layer=deepest_layer, device="cpu", dtype="float32")


def watch_passes(reader: Reader) -> list[tuple[int, int]]:
    """The shape of every forward pass's row, as it goes by."""
    passes: list[tuple[int, int]] = []

    def see(_module: object, _arguments: object, inputs: dict[str, torch.Tensor]) -> None:
        passes.append(tuple(inputs["input_ids"].shape))

    reader.model.register_forward_pre_hook(see, with_kwargs=True)
    return passes


@dataclass(frozen=True)
class Bench:
    """A reader that can be sabotaged, its runner on two layers, and what pairs give without sabotage."""

    reader: Reader
    runner: Runner

    def fail_on_mark(self, error: Exception, *, layer: int | None = None) -> None:
        """Raises in every pass that holds the token MARK: before the first layer, or when it reaches `layer`."""
        marked: list[bool] = [False]

        def look(_module: object, _arguments: object, inputs: dict[str, torch.Tensor]) -> None:
            marked[0] = bool((inputs["input_ids"] == MARK).any())
            if marked[0] and layer is None:
                raise error

        def stumble(*_: object) -> None:
            if marked[0]:
                raise error

        self.reader.model.register_forward_pre_hook(look, with_kwargs=True)
        if layer is not None:
            self.reader.layers[layer].register_forward_pre_hook(stumble)


@pytest.fixture
def bench(house: House) -> Bench:
    reader = a_reader(house)
    encoders = [
        PlacedEncoder(Hookpoint(layer), open_sae(house.saes[name]).encoder(range(D_SAE)))
        for layer, name in ((1, "mid"), (2, "late"))
    ]
    return Bench(reader, Runner(reader, encoders, row_tokens=4096))


def a_batch(lengths: Sequence[int] = (30, 40, 35, 12, 40, 33), *, marked: Sequence[int] = ()) -> list[Ids]:
    """Random pairs without MARK but where asked for, in the middle."""
    rng = np.random.default_rng(8)
    batch = [np.where(ids == MARK, MARK + 1, ids) for ids in (random_ids(rng, length) for length in lengths)]
    for index in marked:
        batch[index][len(batch[index]) // 2] = MARK
    return batch


def summary(encoded: EncodedBatch) -> list[object]:
    """Each pair's dense activations as rounded numbers, or the class of its error."""
    return [
        type(one) if isinstance(one, Exception) else dense(one, 2 * D_SAE).round(3).tolist()
        for one in encoded.activations
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("marked", [(0,), (3,), (1, 4), (0, 1, 2, 3, 4, 5)], ids=str)
def test_overflow_fails_only_its_own_pair(bench: Bench, marked: tuple[int, ...], value: float) -> None:
    """A pair on which the reader overflows gets EngineError; those beside it get what they get without it."""
    healthy = summary(bench.runner(a_batch()))
    bench.reader.model.get_input_embeddings().weight[MARK, 3] = value

    outcome = summary(bench.runner(a_batch(marked=marked)))

    assert [EngineError if i in marked else one for i, one in enumerate(healthy)] == outcome


def test_an_sae_that_overflows_is_no_silence(house: House) -> None:
    """Activations too large for float32 fail the pair rather than count as none."""
    encoder = open_sae(house.saes["mid"]).encoder([3, 4])
    encoder.W_enc[:] = np.finfo(np.float32).max * np.sign(encoder.W_enc)
    runner = Runner(a_reader(house), [PlacedEncoder(Hookpoint(1), encoder)], row_tokens=4096)

    (outcome,) = runner(a_batch([20])).activations

    assert isinstance(outcome, EngineError)
    assert "overflowed" in str(outcome)


@pytest.mark.parametrize("layer", [None, 0, 1, 2])
@pytest.mark.parametrize("marked", [(0,), (5,), (1, 4), (0, 1, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize(
    "error", [ValueError("secret text"), torch.OutOfMemoryError("too much")], ids=lambda e: type(e).__name__
)
def test_a_failing_pair_fails_alone(bench: Bench, marked: tuple[int, ...], layer: int | None, error: Exception) -> None:
    """If the reader raises on one pair, at any depth, that pair gets EngineError and the others their activations."""
    healthy = summary(bench.runner(a_batch()))
    bench.fail_on_mark(error, layer=layer)

    encoded = bench.runner(a_batch(marked=marked))

    assert [EngineError if i in marked else one for i, one in enumerate(healthy)] == summary(encoded)
    for index in marked:
        assert type(error).__name__ in str(encoded.activations[index])
        assert str(error) not in str(encoded.activations[index])


def test_a_failure_leaves_nothing_behind(bench: Bench) -> None:
    """After a batch in which pairs failed, the next one is read as if nothing had been."""
    healthy = summary(bench.runner(a_batch()))
    bench.fail_on_mark(ValueError("x"), layer=2)
    bench.runner(a_batch(marked=(0, 3)))

    assert healthy == summary(bench.runner(a_batch()))


@pytest.mark.parametrize("lengths", [(40,), (40, 30)], ids=["alone", "in company"])
def test_a_failed_pass_keeps_no_memory(bench: Bench, lengths: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass had computed when it failed is free at once, without waiting for the garbage collector."""
    seen: list[weakref.ref[torch.Tensor]] = []

    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("too much")

    bench.reader.layers[0].register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
    bench.reader.layers[1].register_forward_pre_hook(run_out)
    # The test runner keeps log records, and they the traceback.
    monkeypatch.setattr(logging.getLogger("scopewatch.engine.runner"), "disabled", True)
    gc.disable()
    try:
        bench.runner(a_batch(lengths))
        alive = [ref() for ref in seen]
    finally:
        gc.enable()

    assert alive
    assert [None] * len(alive) == alive


def test_too_large_a_pass_is_halved(bench: Bench) -> None:
    """If the device has no memory for a row, shorter ones answer every pair."""
    healthy = summary(bench.runner(a_batch()))
    passes = watch_passes(bench.reader)

    def run_out(_module: object, _arguments: object, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] > 100:
            raise torch.OutOfMemoryError("too much")

    bench.reader.model.register_forward_pre_hook(run_out, with_kwargs=True)

    assert healthy == summary(bench.runner(a_batch()))
    assert max(columns for _, columns in passes) > 100


@pytest.mark.parametrize("layer", [None, 2])
def test_a_lost_device_is_death(bench: Bench, layer: int | None) -> None:
    """An accelerator error, after which no pass can succeed, is EngineDied for the whole batch and is not retried."""
    passes = watch_passes(bench.reader)
    bench.fail_on_mark(torch.AcceleratorError("CUDA error: device-side assert\nmore lines"), layer=layer)

    with pytest.raises(EngineDied, match=r"^the device failed: CUDA error: device-side assert$"):
        bench.runner(a_batch(marked=(1,)))

    assert 1 == len(passes)


def test_a_token_beyond_the_vocabulary_fails_alone(bench: Bench) -> None:
    """A token id the reader does not have fails its own pair."""
    healthy = summary(bench.runner(a_batch()))
    batch = a_batch()
    batch[2][1] = 5000

    assert [*healthy[:2], EngineError, *healthy[3:]] == summary(bench.runner(batch))


# Looking at one pair.


@pytest.fixture
def inspected(house: House) -> dict[str, Any]:
    return token_activations(
        reader=ReaderSource.named(str(house.reader)),
        sae=SaeSource(path=str(house.saes["mid"])),
        features=[11, 3, 40, 3],
        prompt=CONVERSATIONS["emoji"].prompt,
        response=CONVERSATIONS["emoji"].response,
        config=Config(),
    )


def test_inspection_agrees_with_the_engine(house: House, inspected: dict[str, Any]) -> None:
    """`token_activations` shows the untouched model's activations, feature by feature in the order asked."""
    tokens = tokens_of(build_engine(*choices([load_watchlist(house.watchlist)]), Config()), CONVERSATIONS["emoji"])
    watched = [Watched("sae", house.saes["mid"], 1, [3, 11, 40])]
    pre, threshold = Reference(house.reader, watched)(tokens.ids)
    expected = np.where(pre > threshold, pre, 0)[:, [1, 0, 2, 0]]

    assert [11, 3, 40, 3] == inspected["features"]
    np.testing.assert_allclose(np.array(inspected["activations"]).T, expected, rtol=TOLERANCE, atol=1e-4)
    assert "layers.1.resid_post" in inspected["hookpoint"]


def test_inspection_shows_every_token(house: House, inspected: dict[str, Any]) -> None:
    """Each token comes with its id, its segment, its span and the caller's text there; template tokens by name."""
    pair = CONVERSATIONS["emoji"]
    tokeniser = Tokeniser(house.reader, max_tokens=512)
    (tokens,) = tokeniser.tokenise([pair])
    assert isinstance(tokens, TokenisedPair)
    texts = {Segment.PROMPT: pair.prompt, Segment.RESPONSE: pair.response}
    expected = []
    for t, name in enumerate(tokeniser.token_texts(tokens.ids)):
        segment, start, end = Segment(tokens.segments[t]), int(tokens.starts[t]), int(tokens.ends[t])
        shown = (
            {"text": name, "segment": None, "start": None, "end": None}
            if segment == Segment.TEMPLATE
            else {"text": texts[segment][start:end], "segment": segment.name.lower(), "start": start, "end": end}
        )
        expected.append({"id": int(tokens.ids[t]), **shown})

    assert expected == inspected["tokens"]


def test_inspection_refuses_what_cannot_be_read(plain_house: House) -> None:
    """A pair of which there is nothing to read is refused, and not shown empty."""
    with pytest.raises(InvalidRequest, match="there is nothing to read"):
        token_activations(
            reader=ReaderSource(path=str(plain_house.reader), bos="never"),
            sae=SaeSource(path=str(plain_house.saes["mid"]), hookpoint="layers.0"),
            features=[3],
            prompt="",
            response="",
            config=Config(),
        )
