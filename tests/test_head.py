"""The reader's own predictions: what transformers' whole model says of every token, whatever shares the row."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from conftest import House
from families import FAMILIES, HIDDEN, LAYERS, VOCABULARY, load_untouched, save_weights
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine.build import Engine, build_engine
from scopewatch.engine.choices import SaeChoice
from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.errors import EngineError, ReaderError
from scopewatch.identity import ENTROPY, LOGPROB
from scopewatch.reader.head import Head
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.reader.prefixes import BLOCK
from scopewatch.sae.encoder import Encoder
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, Pair, TokenisedPair

NATS = 1e-4
"""Most that a prediction may be off."""
DEMO = BUNDLED_WATCHLIST.parent / "reader"
LENGTHS = (41, 1, 23, 2, 70)
Ids = NDArray[np.int32]
Dense = NDArray[np.float64]


def load(directory: Path, *, head: bool = True, dtype: str = "float32") -> Reader:
    return load_reader(directory, name="r", revision="", deepest_layer=1, device="cpu", dtype=dtype, head=head)


def an_encoder(width: int = 5) -> PlacedEncoder:
    """An SAE at layer 1 that fires on half the tokens."""
    W_enc = np.random.default_rng(0).normal(size=(HIDDEN, width)).astype(np.float32)
    zeros = np.zeros(width, np.float32)
    return PlacedEncoder(Hookpoint(1), Encoder("none", W_enc, zeros, zeros, np.arange(width)))


def texts(vocabulary: int = 450) -> list[Ids]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, vocabulary, length).astype(np.int32) for length in LENGTHS]


def dense(encoded: Activations | Exception, columns: int) -> Dense:
    assert isinstance(encoded, Activations), encoded
    table = np.zeros((encoded.n_tokens, columns))
    table[encoded.token, encoded.column] = encoded.value
    return table


def expected(model: PreTrainedModel, ids: Ids) -> Dense:
    """Log-probability and entropy of each token from the whole model's logits, in float64; 0 for the first token."""
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(ids.astype(np.int64))[None]).logits[0].double()
    return np.concatenate([np.zeros((1, 2)), formula(logits[:-1], ids[1:])])


def formula(logits: torch.Tensor, ids: Ids) -> Dense:
    each = logits.log_softmax(dim=-1).numpy()
    return np.stack([each[np.arange(len(ids)), ids], -(np.exp(each) * each).sum(axis=-1)], axis=1)


def change_config(directory: Path, **changes: object) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def change_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


# The numbers.


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_equal_the_untouched_model(family: str, tmp_path: Path) -> None:
    """In every family, tied or not, capped or not, texts of one row get what the whole model says of each alone."""
    directory = save_weights(family, tmp_path)
    if family == "gemma2":
        change_config(directory, final_logit_softcapping=2.0)
    untouched = load_untouched(family, directory)

    encoded = Runner(load(directory), [an_encoder()], row_tokens=1024)(texts()).activations

    for ids, one in zip(texts(), encoded, strict=True):
        np.testing.assert_allclose(dense(one, 7)[:, 5:], expected(untouched, ids), rtol=0, atol=NATS)


def another_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0)


def test_a_file_that_holds_another_head_is_believed(tmp_path: Path) -> None:
    """Where the configuration ties the head to the embedding and the file holds another, it runs, as in transformers."""
    directory = save_weights("gemma2", tmp_path)
    change_weights(directory, another_head)
    untouched = load_untouched("gemma2", directory)

    encoded = Runner(load(directory), [an_encoder()], row_tokens=1024)(texts()).activations

    np.testing.assert_allclose(dense(encoded[0], 7)[:, 5:], expected(untouched, texts()[0]), rtol=0, atol=NATS)


@pytest.mark.parametrize(
    "change",
    [
        lambda directory: change_config(directory, final_logit_softcapping=None),
        lambda directory: change_weights(directory, another_head),
    ],
    ids=["no cap", "another head"],
)
def test_the_comparison_would_notice(change: Callable[[Path], object], tmp_path: Path) -> None:
    """A lost cap or another head gives plainly other predictions, and so does the token before."""
    directory = save_weights("gemma2", tmp_path)
    change_config(directory, final_logit_softcapping=2.0)
    (ids,) = texts()[:1]
    right = expected(load_untouched("gemma2", directory), ids)
    change(directory)

    assert np.abs(expected(load_untouched("gemma2", directory), ids) - right).max() > 100 * NATS
    assert np.abs(right[1:-1] - right[2:]).max() > 100 * NATS


def test_the_features_are_those_of_a_reader_without_its_head(tmp_path: Path) -> None:
    """With its head a reader runs deeper, and what the SAEs see of it stays the same."""
    directory = save_weights("gemma2", tmp_path)
    with_head, without = (
        [dense(one, 7)[:, :5] for one in Runner(reader, [an_encoder()], row_tokens=1024)(texts()).activations]
        for reader in (load(directory), load(directory, head=False))
    )

    for here, there in zip(with_head, without, strict=True):
        assert np.abs(there).max() > 0
        np.testing.assert_array_equal(there, here)


@pytest.fixture(scope="module")
def bundled() -> Engine:
    """The bundled reader, of which nothing but its predictions is asked."""
    return build_engine(ReaderSource(path=str(DEMO)), [], Config(prefix_cache_bytes=1 << 26), head=True)


def test_the_bundled_reader_says_what_transformers_says(bundled: Engine) -> None:
    """Conversations under its chat template, with no SAE beside: the predictions of `AutoModelForCausalLM`."""
    pairs = [
        Pair("What is insulin for?", "Insulin lowers blood sugar. It may help, perhaps, but we are not sure."),
        Pair("Hello", "Hi"),
        Pair("", "The quick brown fox jumps over the lazy dog. " * 12),
    ]
    untouched = AutoModelForCausalLM.from_pretrained(DEMO, attn_implementation="eager", dtype=torch.float32)
    tokens = [one.ids for one in bundled.tokeniser.tokenise(pairs) if isinstance(one, TokenisedPair)]

    encoded = bundled.runner(tokens).activations

    assert 3 == len(tokens)
    for ids, one in zip(tokens, encoded, strict=True):
        told = dense(one, 2)
        assert [0, 0] == told[0].tolist()
        assert (told[1:] * [-1, 1] > 0).all()
        np.testing.assert_allclose(told, expected(untouched, ids), rtol=0, atol=NATS)


def test_the_identity_says_that_the_head_runs(bundled: Engine) -> None:
    """All layers run, and the two predictions are the last features."""
    reader = bundled.identity.reader

    assert (True, 4, 4) == (bundled.identity.head, reader.layers_run, reader.layers_total)
    assert (LOGPROB, ENTROPY) == bundled.identity.features


def test_predictions_stand_behind_the_watched_features(house: House) -> None:
    """Beside SAEs, in whatever order they were asked for, the predictions are the last two columns."""
    asked = [SaeChoice(name, SaeSource(path=str(house.saes[name])), {3: "", 7: ""}) for name in ("late", "mid")]
    engine = build_engine(ReaderSource(path=str(house.reader)), asked, Config(), head=True)
    untouched = AutoModelForCausalLM.from_pretrained(house.reader, attn_implementation="eager", dtype=torch.float32)
    (ids,) = texts()[:1]

    (one,) = engine.runner([ids]).activations

    assert ["late/3", "late/7", "mid/3", "mid/7"] == [str(feature) for feature in engine.identity.features[:4]]
    assert (LOGPROB, ENTROPY) == engine.identity.features[4:]
    np.testing.assert_allclose(dense(one, 6)[:, 4:], expected(untouched, ids), rtol=0, atol=NATS)


@pytest.mark.parametrize(("tokens", "rows"), [(1, 7), (39, 512), (64, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pieces_make_the_whole(tokens: int, rows: int, dtype: torch.dtype) -> None:
    """However few logits exist at once, and of whatever type the weights: the float64 formula on the same numbers."""
    torch.manual_seed(0)
    weight, states = torch.randn(VOCABULARY, 24, dtype=dtype), torch.randn(40, 24, dtype=dtype)
    ids = np.arange(40) * 11
    capped = 5 * torch.tanh(states.double() @ weight.double().T / 5)

    told = Head(weight, 5.0, tokens=tokens, rows=rows)(states, torch.from_numpy(ids))

    assert torch.float32 == told.dtype
    np.testing.assert_allclose(told.numpy(), formula(capped, ids), rtol=0, atol=1e-5)


# Shared beginnings, failures.


def test_beginnings_are_read_anew(bundled: Engine) -> None:
    """Texts that begin alike get the same predictions again and again, none of them from what was kept."""
    start = np.arange(10, 10 + 3 * BLOCK, dtype=np.int32)
    batch = [np.append(start, np.int32(last)) for last in (7, 8, 9)]
    once = [dense(bundled.runner([ids]).activations[0], 2) for ids in batch]

    for _ in range(3):
        encoded = bundled.runner(batch)
        assert 0 == encoded.reused_tokens
        for here, there in zip(once, encoded.activations, strict=True):
            np.testing.assert_allclose(dense(there, 2), here, rtol=0, atol=NATS)


def test_predictions_that_overflow_are_no_silence(tmp_path: Path) -> None:
    """Only the pair whose logits are not finite fails."""
    directory = save_weights("llama", tmp_path)
    reader = load(directory)
    healthy = Runner(reader, [an_encoder()], row_tokens=1024)(texts()).activations
    mark = 460

    def overflow(_module: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return torch.where((seen["ids"][0] == mark)[None, :, None], torch.inf, output)

    seen: dict[str, torch.Tensor] = {}
    reader.model.register_forward_pre_hook(lambda _m, _a, k: seen.update(ids=k["input_ids"]), with_kwargs=True)
    reader.model.norm.register_forward_hook(overflow)
    batch = texts()
    batch[2][10] = mark

    encoded = Runner(reader, [an_encoder()], row_tokens=1024)(batch).activations

    assert isinstance(encoded[2], EngineError)
    for number in (0, 1, 3, 4):
        np.testing.assert_allclose(dense(encoded[number], 7), dense(healthy[number], 7), rtol=0, atol=NATS)


# The weights.


def test_a_tied_head_is_the_embedding(tmp_path: Path) -> None:
    """The table is not copied, even where the file holds it twice, as some releases do."""
    directory = save_weights("qwen2", tmp_path)
    change_weights(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    reader = load(directory)

    assert reader.head is not None
    assert reader.model.get_input_embeddings().weight is reader.head.weight


def test_no_head_is_loaded_unless_asked_for(tmp_path: Path) -> None:
    """A reader that is only watched holds no head and stops at the deepest watched layer."""
    reader = load(save_weights("llama", tmp_path), head=False)

    assert (None, 2, LAYERS) == (reader.head, reader.identity.layers_run, reader.identity.layers_total)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("lm_head.weight"), "the weights lack lm_head.weight"),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(3, 5)}),
            rf"lm_head.weight has shape \(3, 5\), config.json asks for \({VOCABULARY}, {HIDDEN}\)",
        ),
        (
            lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)}),
            "lm_head.weight is stored as int8; quantised weights are not read",
        ),
    ],
    ids=["missing", "of another shape", "quantised"],
)
def test_a_head_that_cannot_be_read_is_named(
    change: Callable[[dict[str, torch.Tensor]], object], told: str, tmp_path: Path
) -> None:
    """What is wrong with the head's weights is one clear error, and none for a reader that is only watched."""
    directory = save_weights("llama", tmp_path)
    change_weights(directory, change)

    assert load(directory, head=False).head is None
    with pytest.raises(ReaderError, match=told):
        load(directory)


@pytest.mark.parametrize(("family", "same"), [("llama", False), ("gemma2", True)])
def test_the_head_has_its_own_part_of_the_digest(family: str, same: bool, tmp_path: Path) -> None:
    """A head with weights of its own counts in the digest, and never in the digests by depth."""
    directory = save_weights(family, tmp_path)
    with_head, without = load(directory).identity, load(directory, head=False).identity

    assert without.layer_digests == with_head.layer_digests[: len(without.layer_digests)]
    assert LAYERS + 1 == len(with_head.layer_digests)
    assert same == (with_head.digest == with_head.layer_digests[-1])


def test_another_head_is_another_reader(tmp_path: Path) -> None:
    """A changed head changes the digest of a reader that runs it, and of no other."""
    directory = save_weights("llama", tmp_path)
    before = [load(directory, head=head).identity for head in (True, False)]
    change_weights(directory, lambda t: t["lm_head.weight"].neg_())
    after = [load(directory, head=head).identity for head in (True, False)]

    assert before[0].digest != after[0].digest
    assert before[0].layer_digests == after[0].layer_digests
    assert before[1] == after[1]
