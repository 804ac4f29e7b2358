"""`sae verify`: a right SAE passes, and each deliberate mistake is named."""

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Gemma2ForCausalLM

import scopewatch
from families import LAYERS, save_family
from scopewatch.acceptance.golden import Golden
from scopewatch.acceptance.reconstruction import InputAndTarget, measure_reconstruction
from scopewatch.acceptance.text_windows import activations, shortened, windows_of
from scopewatch.acceptance.verification import Verifier
from scopewatch.acceptance.verify import load_verifier
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.errors import DataError, SaeError
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.sae.encoder import Contest
from scopewatch.sae.open import open_sae
from scopewatch.sae.tensors import at_offset
from scopewatch.sae.weights import Sae

DEMO = Path(scopewatch.__file__).parent / "demo"
READER = DEMO / "reader"
PARAMS = DEMO / "sae/layer_2/width_3k/average_l0_31/params.npz"
HOOKPOINT = "layers.2.resid_post"
Arrays = dict[str, np.ndarray]
Edit = Callable[[Arrays], Arrays]
TEXT = (
    "The harbour lay quiet under the early fog, and nobody on the pier could tell whether the ferry would come. "
    "Anna counted the coins in her pocket twice, bought a newspaper, and read about a flood in the southern valleys. "
    "The doctor had told her to rest, perhaps for a week; she thought it might do to rest for a day. "
)


@pytest.fixture(scope="module")
def check() -> Verifier:
    """The bundled reader over a part of the bundled text."""
    whole = load_verifier(str(READER), [Hookpoint(3)], Config(), text=None, max_tokens=1000)
    return replace(whole, few=shortened(whole.windows, 4, 64))


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    with np.load(PARAMS) as file:
        return {name: file[name].astype(np.float32) for name in file}


@pytest.fixture(scope="module")
def shuffled() -> np.ndarray:
    return np.random.default_rng(5).permutation(3072)


def saved(folder: Path, arrays: Arrays, l0: str = "31") -> Sae:
    """The SAE of such a file, where its folders say what the bundled one's say."""
    file = folder / f"gemma-scope-2b-pt-res/layer_2/width_3k/average_l0_{l0}/params.npz"
    file.parent.mkdir(parents=True)
    np.savez(file, **arrays)
    return open_sae(file)


def gained(a: Arrays) -> Arrays:
    """The same SAE with features of other units, so that thresholds and decoder norms differ."""
    gain = np.exp(np.random.default_rng(1).normal(0, 0.7, 3072)).astype(np.float32)
    scaled = {name: a[name] * gain for name in ("W_enc", "b_enc", "threshold")}
    return a | scaled | {"W_dec": a["W_dec"] / gain[:, None]}


def run(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0), *capsys.readouterr()


def verify_bundled(capsys: pytest.CaptureFixture[str], *options: object) -> tuple[int, str, str]:
    return run(["sae", "verify", "--reader", READER, "--sae", PARAMS, "--hookpoint", HOOKPOINT, *options], capsys)


def residual(ids: list[int], layer: int = 2) -> np.ndarray:
    """Output of a layer of the untouched transformers model, float64, shape (tokens, d_in)."""
    model = Gemma2ForCausalLM.from_pretrained(READER, dtype="float32", attn_implementation="eager")
    caught: list[np.ndarray] = []
    model.model.layers[layer].register_forward_hook(lambda *call: caught.append(call[2].detach().double().numpy()[0]))
    model(torch.tensor([ids]))
    return caught[0]


def dense(x: np.ndarray, arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Activations and reconstruction of a JumpReLU SAE in float64."""
    a = {name: array.astype(np.float64) for name, array in arrays.items()}
    pre = x @ a["W_enc"] + a["b_enc"]
    f = pre * (pre > a["threshold"])
    return f, f @ a["W_dec"] + a["b_dec"]


def fvu(y: np.ndarray, made: np.ndarray) -> float:
    return float(((y - made) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum())


def test_the_bundled_sae_passes_on_the_bundled_text(capsys: pytest.CaptureFixture[str]) -> None:
    """With no option the right SAE on its reader is ok, its numbers are its publisher's, and the exit code is 0."""
    code, out, err = verify_bundled(capsys, "--json")
    outcome = json.loads(out)

    assert (0, "", "ok") == (code, err, outcome["verdict"])
    assert 5000 == outcome["measured"]["tokens"]
    assert abs(outcome["measured"]["l0"] / 31.3 - 1) <= 0.15
    assert abs(outcome["measured"]["fvu"] - 0.105) <= 0.02
    assert 0.99 < outcome["geometry"]["norm_min"] <= outcome["geometry"]["norm_max"] < 1.01
    assert outcome["measured"]["l0"] / outcome["declared_l0"] == outcome["l0_ratio"]
    assert outcome["reader"]["digest"]
    assert list(outcome["digests"]) == ["params.npz"]


def test_numbers_equal_a_dense_computation_with_transformers(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a text of the caller's, L0, FVU and silent features are those of the whole model and SAE in float64."""
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 5)
    tokenizer = AutoTokenizer.from_pretrained(READER)
    ids = tokenizer(TEXT * 5, add_special_tokens=False).input_ids
    x = residual([tokenizer.bos_token_id, *ids])[1:]
    f, made = dense(x, arrays)

    code, out, _ = verify_bundled(capsys, "--text", text, "--json")
    measured = json.loads(out)["measured"]

    assert (0, len(ids)) == (code, measured["tokens"])
    assert measured["l0"] == pytest.approx((f > 0).sum(axis=1).mean(), rel=1e-4)
    assert measured["fvu"] == pytest.approx(fvu(x, made), rel=1e-4)
    assert measured["never_fired"] == pytest.approx(1 - (f > 0).any(axis=0).mean(), abs=1e-3)


@pytest.mark.parametrize(
    "hookpoint",
    ["layers.1.resid_post", "layers.3.resid_post", "layers.2.resid_mid", "layers.2.mlp_out", "layers.2.attn_out"],
)
def test_a_wrong_place_is_named_with_the_right_one(
    hookpoint: str, check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """Another layer or another site of the same width is found out, and where the SAE belongs."""
    outcome = check(saved(tmp_path, arrays), hookpoint)

    assert "wrong" == outcome.verdict
    assert outcome.finding.startswith(f"reads {hookpoint}, but the numbers fit layers.2.resid_post: L0 ")
    assert hookpoint == outcome.hookpoint


def rescaled(factor: float) -> Edit:
    """The file of an SAE that reads activations multiplied by a factor, not folded into it."""
    return lambda a: a | {name: a[name] * factor for name in ("b_enc", "threshold", "b_dec")}


@dataclass(frozen=True)
class Mistake:
    finding: str
    edit: Edit = dict
    """What is done to the arrays of the file."""
    change: dict[str, object] = field(default_factory=dict)
    """What is done to the opened SAE."""


MISTAKES = {
    "taken for a transcoder": Mistake(
        "reads layers.2.mlp_in -> layers.2.mlp_out, but the numbers fit layers.2.resid_post",
        change={"hookpoint": "layers.2.mlp_in", "hookpoint_out": "layers.2.mlp_out"},
    ),
    "b_dec subtracted": Mistake("b_dec must not be subtracted", change={"subtracts_b_dec": True}),
    "b_dec not subtracted": Mistake(
        "b_dec must be subtracted first", lambda a: a | {"b_enc": a["b_enc"] + a["b_dec"] @ a["W_enc"]}
    ),
    "normalisation missing": Mistake("activations lack their normalisation, a factor of 0.28", rescaled(0.29)),
    "normalised twice": Mistake("activations are normalised twice, by a factor of 0.28", rescaled(1 / 0.29)),
    "decoder of another scale": Mistake(
        "rows of W_dec have norms from 0.3 to 0.3 where its publisher promises 1",
        lambda a: a | {"W_dec": a["W_dec"] * 0.3},
    ),
    "TopK with too small a k": Mistake("k is 31, not 4", change={"contest": Contest(3072, 4), "threshold": 0.0}),
    "TopK with too large a k": Mistake("k is 31, not 100", change={"contest": Contest(3072, 100), "threshold": 0.0}),
    "TopK left out": Mistake("only the largest of a token fire: TopK with k=31 fits", change={"threshold": 0.0}),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_named(mistake: Mistake, check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Numbers that are plausible but wrong do not pass, and the sentence says what was done."""
    outcome = check(replace(saved(tmp_path, mistake.edit(arrays)), **mistake.change))

    assert "ok" != outcome.verdict
    assert mistake.finding in outcome.finding


SHUFFLES = {
    "W_dec": "the rows of W_dec are in another order than the columns of W_enc",
    "W_enc": "the columns of W_enc are in another order than the rows of W_dec, b_enc and threshold",
    "b_enc": "b_enc is not that of its features",
    "threshold": "the thresholds are not those of its features",
}


@pytest.mark.parametrize("name", SHUFFLES)
def test_a_shuffled_array_is_named(
    name: str, check: Verifier, arrays: Arrays, shuffled: np.ndarray, tmp_path: Path
) -> None:
    """A file of which one array is in another order is found out, and which array it is."""
    right = gained(arrays)
    mixed = right | {name: right[name][..., shuffled] if name != "W_dec" else right[name][shuffled]}

    outcome = check(replace(saved(tmp_path, mixed), unit_decoder=False))

    assert "wrong" == outcome.verdict
    assert SHUFFLES[name] in outcome.finding


def fitted_transcoder(check: Verifier, folder: Path) -> Sae:
    """400 random ReLU features of the MLP's input without gain, from which its output is rebuilt by least squares."""
    reads, writes = Hookpoint(2, "mlp_in_unit"), Hookpoint(2, "mlp_out")
    found = activations(check.reader, check.windows, [reads, writes])
    x, y = (found[hookpoint].double().numpy() for hookpoint in (reads, writes))
    W_enc = np.random.default_rng(7).normal(0, 0.1, (192, 400))
    features = np.hstack([np.maximum(x @ W_enc, 0), np.ones((len(x), 1))])
    W_dec = np.linalg.lstsq(features, y, rcond=None)[0]
    tensors = {"W_enc": W_enc, "W_dec": W_dec[:-1], "b_dec": W_dec[-1]}
    kept = {name: stored(folder, name, array) for name, array in tensors.items()}
    return Sae(
        "test",
        "standard_transcoder",
        str(reads),
        b_enc=None,
        files=(folder / "W_enc",),
        hookpoint_out=str(writes),
        **kept,
    )


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({}, None),
        ({"hookpoint": "layers.2.mlp_in"}, "fit layers.2.mlp_in_unit -> layers.2.mlp_out"),
        ({"hookpoint": "layers.2.resid_mid"}, "fit layers.2.mlp_in_unit -> layers.2.mlp_out"),
        ({"hookpoint_out": "layers.3.mlp_out"}, "fit layers.2.mlp_in_unit -> layers.2.mlp_out"),
        ({"hookpoint_out": "layers.2.resid_post"}, "fit layers.2.mlp_in_unit -> layers.2.mlp_out"),
        ({"hookpoint": "layers.2.resid_post", "hookpoint_out": ""}, "fit layers.2.mlp_in_unit -> layers.2.mlp_out"),
    ],
    ids=[
        "right",
        "with the gain",
        "before the norm",
        "target in another layer",
        "target after the MLP",
        "no transcoder",
    ],
)
def test_a_transcoder_is_judged_by_its_target(
    change: dict[str, object], finding: str | None, check: Verifier, tmp_path: Path
) -> None:
    """The reconstruction is compared with where it writes; the gain of the norm and a wrong target are named."""
    outcome = check(replace(fitted_transcoder(check, tmp_path), **change))

    assert (finding is None) == (outcome.verdict == "ok")
    assert (finding or "as it should be") in outcome.finding


def test_other_units_of_features_are_no_mistake(check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Features may be scaled one by one where nobody promises unit decoder rows."""
    assert "ok" == check(replace(saved(tmp_path, gained(arrays)), unit_decoder=False)).verdict


def test_a_shuffle_too_large_to_be_undone_is_still_named(
    check: Verifier, arrays: Arrays, shuffled: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the dictionary is too wide to look for every counterpart, a sample of columns tells."""
    monkeypatch.setattr("scopewatch.acceptance.alternatives._MATCHED_ELEMENTS", 1000)

    outcome = check(saved(tmp_path, arrays | {"W_dec": arrays["W_dec"][shuffled]}))

    assert "wrong" == outcome.verdict
    assert "columns of W_enc point along rows of W_dec of other features" in outcome.finding


@pytest.mark.parametrize("declared", ["71", "10"])
def test_a_wrong_declared_l0_is_told_from_a_wrong_sae(
    declared: str, check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """An SAE that works under a folder name of another variant is suspect for just that."""
    outcome = check(saved(tmp_path, arrays, declared))

    assert "suspect" == outcome.verdict
    assert f"(declared {declared})" in outcome.finding
    assert "only L0 does not fit" in outcome.finding
    assert "the declared L0 is of another SAE" in outcome.finding


def test_an_sae_of_another_model_fits_nowhere(check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Directions this reader does not have are not mistaken for another site, scale or order."""
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(192, 192)))[0].astype(np.float32)
    turned = arrays | {"W_enc": rotation @ arrays["W_enc"], "W_dec": arrays["W_dec"] @ rotation.T}

    outcome = check(saved(tmp_path, turned))

    assert "wrong" == outcome.verdict
    assert "made for another model, or its file is damaged" in outcome.finding
    assert "too much fires" in outcome.finding


def test_nan_in_the_decoder_is_named(check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Damaged rows are counted, and the other numbers stay numbers."""
    W_dec = arrays["W_dec"].copy()
    W_dec[[7, 300], 5] = np.nan, np.inf

    outcome = check(saved(tmp_path, arrays | {"W_dec": W_dec}))

    assert "wrong" == outcome.verdict
    assert outcome.finding.startswith("2 rows of W_dec hold NaN or infinity")
    assert np.isfinite([outcome.measured.fvu, outcome.geometry.norm_max, outcome.geometry.cosine]).all()


@pytest.mark.parametrize(("factor", "verdict"), [(0.0, "suspect"), (3.0, "wrong")])
def test_a_bias_of_another_sae_is_named(
    factor: float, verdict: str, check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """b_dec that is not this SAE's shifts every reconstruction alike, and is told from arrays that decide what fires."""
    outcome = check(saved(tmp_path, arrays | {"b_dec": arrays["b_dec"] * np.float32(factor)}))

    assert verdict == outcome.verdict
    assert "b_dec is not that of this SAE; what fires does not depend on it" in outcome.finding


@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_nan_elsewhere_is_refused(name: str, check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """An array without which nothing can be measured is named."""
    with pytest.raises(SaeError, match=rf"{name} .*NaN"):
        check(saved(tmp_path, arrays | {name: arrays[name] * np.nan}))


def rotation_sae(folder: Path, *, transposed: bool) -> Sae:
    """192 features that all fire and rebuild everything: an orthogonal matrix and a large bias."""
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(192, 192)))[0].astype(np.float32)
    bias = np.full(192, 1000.0, np.float32)
    weights = {"W_enc": basis, "b_enc": bias, "threshold": np.zeros(192, np.float32), "b_dec": -bias @ basis.T}
    return saved(folder, weights | {"W_dec": basis if transposed else np.ascontiguousarray(basis.T)}, "192")


def test_a_transposed_square_decoder_is_named(check: Verifier, tmp_path: Path) -> None:
    """Where a matrix is square its shape cannot tell; the numbers do."""
    right = check(rotation_sae(tmp_path / "right", transposed=False))
    wrong = check(rotation_sae(tmp_path / "wrong", transposed=True))

    assert ("ok", "wrong") == (right.verdict, wrong.verdict)
    assert "W_dec is transposed" in wrong.finding


def test_an_undeclared_l0_does_not_hide_a_wrong_place(check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Numbers that would pass are suspect where a place nearby explains clearly more."""
    undeclared = replace(saved(tmp_path, arrays), declared_l0=None)

    assert "ok" == check(undeclared).verdict
    outcome = check(undeclared, "layers.3.resid_mid")
    assert "suspect" == outcome.verdict
    assert "the numbers fit layers.2.resid_post" in outcome.finding


def stored(folder: Path, name: str, array: np.ndarray) -> object:
    array.astype("<f4").tofile(folder / name)
    return at_offset(folder / name, name, array.shape, "float32", 0)


def small_sae(folder: Path, **changes: object) -> tuple[Sae, dict[str, np.ndarray]]:
    """A random SAE of 12 inputs, 60 features and 12 outputs, and its arrays in float64."""
    rng = np.random.default_rng(4)
    shapes = {
        "W_enc": (12, 60),
        "b_enc": (60,),
        "W_dec": (60, 12),
        "b_dec": (12,),
        "W_skip": (12, 12),
        "r": (60,),
        "m": (60,),
    }
    a = {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    tensors = {name: stored(folder, name, array) for name, array in a.items()}
    sae = Sae(
        "test", "test", "layers.0", tensors["W_enc"], tensors["b_enc"], (folder,), tensors["W_dec"], tensors["b_dec"]
    )
    if changes.pop("gate", False):
        changes |= {"r_mag": tensors["r"], "b_mag": tensors["m"]}

    if "W_skip" in changes:
        changes["W_skip"] = tensors["W_skip"]
    return replace(sae, **changes), {name: array.astype(np.float64) for name, array in a.items()}


def topk(pre: np.ndarray, k: int) -> np.ndarray:
    return np.where(pre >= np.sort(pre, axis=-1)[..., -k, None], np.maximum(pre, 0), 0)


def groupmax(pre: np.ndarray) -> np.ndarray:
    groups = pre.reshape(len(pre), -1, 12)
    return np.where(groups == groups.max(-1, keepdims=True), np.maximum(groups, 0), 0).reshape(pre.shape)


def gated(x: np.ndarray, a: dict[str, np.ndarray]) -> np.ndarray:
    opened = x @ a["W_enc"] + a["b_enc"] > 0
    return opened * np.maximum(x @ (a["W_enc"] * np.exp(a["r"])) + a["m"], 0)


def by_norm(x: np.ndarray, a: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """TopK among pre-activations times decoder norms, which the decoder then divides by."""
    norms = np.linalg.norm(a["W_dec"], axis=1)
    f = topk((x @ a["W_enc"] + a["b_enc"]) * norms, 7)
    return f, f / norms @ a["W_dec"] + a["b_dec"]


def layer_normed(x: np.ndarray, a: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    mean, std = x.mean(-1, keepdims=True), x.std(-1, ddof=1, keepdims=True)
    f = np.maximum((x - mean) / (std + 1e-5) @ a["W_enc"] + a["b_enc"], 0)
    return f, (f @ a["W_dec"] + a["b_dec"]) * std + mean


def plain(x: np.ndarray, a: dict[str, np.ndarray]) -> np.ndarray:
    return x @ a["W_enc"] + a["b_enc"]


Formula = Callable[[np.ndarray, dict[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]


def decoded(encode: Callable[[np.ndarray, dict[str, np.ndarray]], np.ndarray]) -> Formula:
    return lambda x, a: ((f := encode(x, a)), f @ a["W_dec"] + a["b_dec"])


FORMULAS: dict[str, tuple[dict[str, object], Formula]] = {
    "ReLU": ({}, decoded(lambda x, a: np.maximum(plain(x, a), 0))),
    "JumpReLU": ({"threshold": 0.8}, decoded(lambda x, a: plain(x, a) * (plain(x, a) > 0.8))),
    "centred": ({"subtracts_b_dec": True}, decoded(lambda x, a: np.maximum(plain(x - a["b_dec"], a), 0))),
    "gated": ({"gate": True}, decoded(gated)),
    "TopK": ({"contest": Contest(60, 7)}, decoded(lambda x, a: topk(plain(x, a), 7))),
    "TopK by norm": ({"contest": Contest(60, 7), "gain_scale": 1.0}, by_norm),
    "groupmax": ({"contest": Contest(12, 1)}, decoded(lambda x, a: groupmax(plain(x, a)))),
    "layer norm": ({"normalise": "layer_norm", "denormalises": True}, layer_normed),
    "scaled": (
        {"scale_in": 0.3, "scale_out": 0.5},
        lambda x, a: ((f := np.maximum(plain(0.3 * x, a), 0)), (f @ a["W_dec"] + a["b_dec"]) / 0.5),
    ),
    "skip": (
        {"W_skip": True},
        lambda x, a: ((f := np.maximum(plain(x, a), 0)), f @ a["W_dec"] + a["b_dec"] + x @ a["W_skip"]),
    ),
}


@pytest.mark.parametrize("slab_width", [1, 17, 60])
@pytest.mark.parametrize(("change", "formula"), FORMULAS.values(), ids=FORMULAS.keys())
def test_slabs_of_any_width_give_the_numbers_of_the_whole(
    change: dict[str, object], formula: Formula, slab_width: int, tmp_path: Path
) -> None:
    """L0, FVU and silent features of every architecture equal its formula in float64, however it is cut."""
    sae, a = small_sae(tmp_path, **change)
    x, y = np.random.default_rng(6).normal(size=(2, 1500, 12)).astype(np.float32)
    f, made = formula(x.astype(np.float64), a)

    sample = InputAndTarget(torch.from_numpy(x), torch.from_numpy(y))
    (measured,) = measure_reconstruction(sae, [sample], tmp_path, slab_width=slab_width)

    assert measured.l0 == pytest.approx((f != 0).sum(axis=1).mean(), rel=1e-3)
    assert measured.fvu == pytest.approx(fvu(y.astype(np.float64), made), rel=1e-4)
    assert measured.never_fired == pytest.approx(1 - (f != 0).any(axis=0).mean(), abs=0.02)


@pytest.mark.parametrize("family", ["gemma3", "llama", "qwen3"])
def test_every_family_of_readers_is_searched(family: str, tmp_path: Path) -> None:
    """On readers with and without BOS and post norms, what reads principal components of one place is found there."""
    home = Hookpoint(1, "attn_out")
    check = load_verifier(str(save_family(family, tmp_path / family)), [home], Config(), text=None, max_tokens=600)
    x = activations(check.reader, check.windows, [home])[home].double().numpy()
    main = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)[2][:20]
    kept = {
        # A bias that makes every feature fire.
        "W_enc": main.T,
        "b_enc": 1000 - x.mean(axis=0) @ main.T,
        "W_dec": main,
        "b_dec": x.mean(axis=0) - 1000 * main.sum(axis=0),
    }
    tensors = {name: stored(tmp_path, name, array) for name, array in kept.items()}
    sae = Sae("test", "standard", str(home), files=(tmp_path / "W_enc",), declared_l0=20.0, **tensors)

    right, wrong = check(sae), check(sae, "layers.2.mlp_out")

    assert ("ok", LAYERS) == (right.verdict, right.reader.layers_run)
    assert "ok" != wrong.verdict
    assert wrong.finding.startswith("reads layers.2.mlp_out, but the numbers fit layers.1.attn_out: L0 20.0")


def test_a_long_export_is_read_in_part(check: Verifier, arrays: Arrays, tmp_path: Path) -> None:
    """Of many rows 256 to 512 are taken, evenly, so that a batch of an export takes no more memory than a few rows."""
    file = golden_file(tmp_path, arrays)
    (known, *_) = gzip.decompress(file.read_bytes()).decode().splitlines()
    other = json.dumps({"index": 1, "tokens": ["✂✂"], "values": [0]})
    file.write_text("\n".join([other] * 1499 + [known]))

    golden = check(open_sae(PARAMS), HOOKPOINT, golden=Golden(file)).golden

    assert golden is not None
    assert (1, 374) == (golden.rows, golden.skipped_rows)


def test_special_tokens_and_the_first_position_do_not_count(check: Verifier) -> None:
    """Each window begins with BOS, and only what is text is measured, at most as much as asked for."""
    text = (TEXT + "<end_of_turn>") * 40
    bos, special = 2, check.tokenizer.convert_tokens_to_ids("<end_of_turn>")

    windows = windows_of(text, check.tokenizer, name="text", context=300, max_tokens=700)

    assert 700 == sum(int(window.counted.sum()) for window in windows)
    for window in windows:
        assert len(window.ids) <= 300
        assert (bos, False) == (window.ids[0], window.counted[0])
        assert not window.counted[window.ids == special].any()
    assert any((window.ids == special).any() for window in windows)


def golden_file(folder: Path, arrays: Arrays, edit: Callable[[dict[str, object]], object] = lambda row: row) -> Path:
    """An export made by transformers and float64, of three features that fire."""
    tokenizer = AutoTokenizer.from_pretrained(READER)
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False).input_ids]
    f, _ = dense(residual(ids), arrays)
    values = f * np.linalg.norm(arrays["W_dec"].astype(np.float64), axis=1)
    features = np.argsort(-(f[1:] > 0).sum(axis=0))[[0, 20, 60]]
    file = folder / "batch-0.jsonl.gz"
    rows = [
        {
            "modelId": "bundled",
            "layer": "2-res-3k",
            "index": str(feature),
            "tokens": tokenizer.convert_ids_to_tokens(ids),
            "values": values[:, feature].tolist(),
        }
        for feature in features
    ]
    with gzip.open(file, "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(edit(row)) + "\n" for row in rows)
    return file


def read_as_text(row: dict[str, object]) -> dict[str, object]:
    """Tokens as they read, without BOS, as some exports have them."""
    tokenizer = AutoTokenizer.from_pretrained(READER)
    tokens = [tokenizer.convert_tokens_to_string([token]).replace("\n", "\\n") for token in row["tokens"][1:]]
    return row | {"tokens": tokens, "values": row["values"][1:]}


@pytest.mark.parametrize("edit", [lambda row: row, read_as_text], ids=["as the vocabulary spells", "as it reads"])
def test_exported_activations_of_the_same_sae_agree(
    edit: Callable[[dict[str, object]], dict[str, object]], check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """Values times decoder norms agree with an export token for token."""
    right = gained(arrays)
    sae = replace(saved(tmp_path, right), unit_decoder=False)

    outcome = check(sae, golden=Golden(golden_file(tmp_path, right, edit), 0.05))

    assert "ok" == outcome.verdict
    assert outcome.golden is not None
    assert (3, 0, 3) == (outcome.golden.rows, outcome.golden.skipped_rows, len(outcome.golden.features))
    assert outcome.golden.worst.deviation <= 1e-4
    assert outcome.golden.worst.correlation >= 0.9999


FALSE_EXPORTS: dict[str, Callable[[dict[str, object]], dict[str, object]]] = {
    "values of another scale": lambda row: row | {"values": [1.2 * value for value in row["values"]]},
    "values one token late": lambda row: row | {"values": row["values"][-1:] + row["values"][:-1]},
    "values of another feature": lambda row: row | {"index": str(int(row["index"]) ^ 1)},
}


@pytest.mark.parametrize("edit", FALSE_EXPORTS.values(), ids=FALSE_EXPORTS.keys())
def test_exported_activations_that_differ_count_in_the_verdict(
    edit: Callable[[dict[str, object]], dict[str, object]], check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """An SAE whose numbers are right but whose features are not the export's is refused, with the feature."""
    outcome = check(open_sae(PARAMS), HOOKPOINT, golden=Golden(golden_file(tmp_path, arrays, edit)))

    assert "wrong" == outcome.verdict
    assert re.match(r"feature \d+ deviates by [\d.]+% from its exported activations", outcome.finding)


def test_the_command_prints_a_table_and_the_finding(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain output has the numbers, one line for each exported feature, and the verdict last; not ok ends with 1."""
    late = golden_file(tmp_path, arrays, FALSE_EXPORTS["values one token late"])

    code, out, err = verify_bundled(capsys, "--golden", late, "--max-sample-tokens", 600)
    lines = out.splitlines()

    assert (1, "") == (code, err)
    assert ["L0", "FVU"] == [line.split()[0] for line in lines if line.startswith(("L0", "FVU"))]
    assert 3 == sum(line.startswith("golden ") for line in lines)
    assert lines[-1].startswith("wrong: feature ")


BAD_EXPORTS: dict[str, tuple[Callable[[dict[str, object]], object], str]] = {
    "made on the wrong site": (
        lambda row: row | {"modelId": "gemma-2-2b", "layer": "19-gemmascope-transcoder-16k"},
        "are no golden data",
    ),
    "of another tokenizer": (lambda row: row | {"tokens": ["✂✂"] * len(row["tokens"])}, "it is of another model"),
    "a value short": (lambda row: row | {"values": row["values"][1:]}, r":1: row: \d+ tokens, but \d+ values"),
    "no tokens": (lambda row: {"index": 3}, ":1: tokens: Field required"),
    "no such feature": (lambda row: row | {"index": 4000}, "there is no feature 4000"),
    "silent": (lambda row: row | {"values": [0.0] * len(row["values"])}, "no feature fires in it"),
}


@pytest.mark.parametrize(("edit", "words"), BAD_EXPORTS.values(), ids=BAD_EXPORTS.keys())
def test_an_export_that_proves_nothing_is_refused(
    edit: Callable[[dict[str, object]], object], words: str, check: Verifier, arrays: Arrays, tmp_path: Path
) -> None:
    """A golden file that cannot be compared is an error that says why, not a pass."""
    with pytest.raises((DataError, SaeError), match=words):
        check(open_sae(PARAMS), HOOKPOINT, golden=Golden(golden_file(tmp_path, arrays, edit), 0.05))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "0 tokens of text; at least 256 are needed"),
        (b"One short sentence.", "tokens of text; at least 256 are needed"),
        (PARAMS.read_bytes()[:5000], "not UTF-8 text"),
        ((TEXT * 9).encode("utf-16"), "not UTF-8 text"),
        (None, "cannot be read: No such file or directory"),
    ],
    ids=["empty", "too short", "binary", "UTF-16", "missing"],
)
def test_a_text_that_cannot_be_measured_on_is_one_clear_error(
    content: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 2 and the message names the file."""
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)

    code, out, err = verify_bundled(capsys, "--text", file)

    assert (2, "") == (code, out)
    assert words in err
    assert str(file) in err
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--hookpoint", "layers.9.resid_post", "layer 9 is watched, but it has layers 0 to 3"),
        ("--hookpoint", "layers.2.mlp.down_proj.input", "the reader has 576"),
        ("--max-sample-tokens", "100", "at least 256"),
        ("--tolerance", "-1", "tolerance"),
        ("--reader", "/nowhere", "/nowhere: no such directory"),
    ],
)
def test_an_impossible_option_is_one_clear_error(
    option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be run at all ends with exit code 2 and one line."""
    code, out, err = verify_bundled(capsys, option, value)

    assert (2, "") == (code, out)
    assert words in err.splitlines()[-1]


def test_an_sae_that_says_no_place_needs_a_hookpoint(
    arrays: Arrays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file outside its folders is not guessed about."""
    np.savez(tmp_path / "params.npz", **arrays)
    command = ["sae", "verify", "--reader", READER, "--sae", tmp_path / "params.npz"]

    assert 2 == run(command, capsys)[0]
    assert 0 == run([*command, "--hookpoint", "layers.2.resid_post", "--max-sample-tokens", 600], capsys)[0]
