"""Reading released SAE files: the same numbers from every layout, a plain refusal of everything else."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import D_SAE, HIDDEN, sae_arrays, save_sae
from scopewatch.engine.hookpoints import Hookpoint, parse_hookpoint
from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.sae.gemma_scope import layer_of, load_columns
from scopewatch.sae.weights import EncoderColumns

WATCHED = [3, 11, 40]
Arrays = dict[str, np.ndarray]
NAMES = ["W_enc", "b_enc", "threshold"]


def write(folder: Path, arrays: Arrays, *, compressed: bool = False) -> Path:
    file = folder / "params.npz"
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file


def assert_columns(expected: Arrays, actual: EncoderColumns, watched: list[int] = WATCHED) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(expected[name][..., watched].astype(np.float32), getattr(actual, name))
        assert np.float32 == getattr(actual, name).dtype


def refusal(file: Path, watched: list[int] = WATCHED) -> str:
    """What an operator is told; it names the file and is one line."""
    with pytest.raises(SaeError) as caught:
        load_columns(file, watched)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("watched", [[0], [D_SAE - 1], [40, 3, 11], [5, 5, 2], list(range(D_SAE))], ids=str)
def test_watched_columns_come_in_ascending_order(tmp_path: Path, watched: list[int]) -> None:
    """Whatever the order asked for, the columns are those of the file, ascending, each once."""
    arrays = sae_arrays()

    columns = load_columns(write(tmp_path, arrays), watched)

    assert_columns(arrays, columns, sorted(set(watched)))
    assert (HIDDEN, D_SAE) == (columns.d_in, columns.d_sae)


LAYOUTS: dict[str, Callable[[Arrays], Arrays]] = {
    "as released": lambda a: a,
    "Fortran order": lambda a: a | {"W_enc": np.asfortranarray(a["W_enc"])},
    "lower-case keys": lambda a: {name.lower(): array for name, array in a.items()},
    "float64": lambda a: {name: array.astype(np.float64) for name, array in a.items()},
    "big-endian": lambda a: {name: array.astype(">f4") for name, array in a.items()},
    "scaling factor of one": lambda a: a | {"scaling_factor": np.ones(D_SAE, np.float32)},
    "further arrays": lambda a: a | {"notes": np.array(["trained on a Tuesday"]), "steps": np.array(7)},
    "NaN where nobody looks": lambda a: with_value(a, "W_enc", np.nan, (0, 4)) | {"b_dec": a["b_dec"] * np.nan},
}


def with_value(arrays: Arrays, name: str, value: float, where: tuple[int, ...] | int) -> Arrays:
    changed = arrays[name].copy()
    changed[where] = value
    return arrays | {name: changed}


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "stored"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_same_numbers(
    tmp_path: Path, layout: Callable[[Arrays], Arrays], compressed: bool
) -> None:
    """Memory order, spelling, precision and compression of a file do not change what is read from it."""
    arrays = sae_arrays()

    columns = load_columns(write(tmp_path, layout(arrays), compressed=compressed), WATCHED)

    assert_columns(arrays, columns)


@pytest.mark.parametrize("order", ["C", "F"])
def test_float16_is_read_as_the_float32_of_its_values(tmp_path: Path, order: str) -> None:
    """A half-precision file equals the float32 file of the same values."""
    arrays = {name: np.asarray(array, np.float16, order=order) for name, array in sae_arrays().items()}

    columns = load_columns(write(tmp_path, arrays), WATCHED)

    assert_columns(arrays, columns)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_larger_than_one_chunk_is_read_whole(
    tmp_path: Path, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix read in many pieces is the matrix, and the last, shorter piece counts."""
    monkeypatch.setattr("scopewatch.sae.gemma_scope._CHUNK_BYTES", 11 * 4 * HIDDEN)
    arrays = sae_arrays()
    arrays["W_enc"] = np.asarray(arrays["W_enc"], order=order)
    watched = [*WATCHED, D_SAE - 1]

    columns = load_columns(write(tmp_path, arrays), watched)

    assert_columns(arrays, columns, watched)


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    """Two files share a digest exactly if they are the same bytes, watched or not."""
    digests = []
    for seed, d_dec in ((1, 0), (1, 0), (1, 1), (2, 0)):
        arrays = sae_arrays(seed)
        arrays["b_dec"] = arrays["b_dec"] + d_dec
        digests.append(load_columns(write(tmp_path, arrays), WATCHED).digest)

    assert digests[0] == digests[1]
    assert 3 == len(set(digests))


# Files that are no archive.


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda _: None, "no such file"),
        (lambda f: f.mkdir(), "cannot be read"),
        (lambda f: f.write_bytes(b""), "not a complete npz archive"),
        (lambda f: f.write_text("<html>not found</html>"), "not a complete npz archive"),
        (lambda f: f.write_bytes(npy(np.ones(3))), "not a complete npz archive"),
        (lambda f: zipfile.ZipFile(f, "w").close(), "no array W_enc; there is nothing"),
    ],
    ids=["missing", "directory", "empty", "page", "npy", "empty zip"],
)
def test_what_is_no_archive_is_refused(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    """A path that holds no npz archive is refused in words that say what was expected."""
    file = tmp_path / "params.npz"
    make(file)

    assert told in refusal(file)


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "stored"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, compressed: bool) -> None:
    """A download that stopped anywhere is refused as incomplete."""
    file = write(tmp_path, sae_arrays(), compressed=compressed)
    raw = file.read_bytes()
    file.write_bytes(raw[: int(share * len(raw))])

    assert "not a complete npz archive" in refusal(file)


@pytest.fixture(scope="module", params=[True, False], ids=["compressed", "stored"])
def small_archive(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arrays = sae_arrays(d_in=8, d_sae=6)
    return write(tmp_path_factory.mktemp("small"), arrays, compressed=request.param)


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_damage_is_refused_or_harmless(small_archive: Path, data: st.DataObject) -> None:
    """With any bytes changed or cut, a file is refused as an SAE error or read with the right numbers, never else."""
    raw = bytearray(small_archive.read_bytes())
    good = load_columns(small_archive, [1, 4])
    # The directory at the end is where damage does most; half of it strikes there.
    place = st.integers(0, len(raw) - 1) | st.integers(len(raw) * 3 // 4, len(raw) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        raw[at] = value
    damaged = small_archive.with_name("damaged.npz")
    damaged.write_bytes(raw[: data.draw(st.just(len(raw)) | st.integers(0, len(raw)))])

    try:
        columns = load_columns(damaged, [1, 4])
    except SaeError:
        return

    for name in NAMES:
        np.testing.assert_array_equal(getattr(good, name), getattr(columns, name))


def test_a_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    """Weights whose checksum does not hold are refused, even where the archive is otherwise whole."""
    arrays = sae_arrays()
    file = write(tmp_path, arrays)
    raw = bytearray(file.read_bytes())
    at = raw.index(arrays["W_enc"].tobytes())
    raw[at + 4 * WATCHED[0]] ^= 1
    file.write_bytes(raw)

    assert "not a complete npz archive (Bad CRC-32" in refusal(file)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    """An archive marked as encrypted is refused, not a crash."""
    file = write(tmp_path, sae_arrays())
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(raw)

    assert "encrypted" in refusal(file)


# Archives that are no Gemma Scope SAE.


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", [*NAMES, "scaling_factor"])
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    """An object array, which could run code when loaded, is refused unread."""
    trap = tmp_path / "sprung"
    shape = (HIDDEN, D_SAE) if name == "W_enc" else (D_SAE,)
    file = write(tmp_path, sae_arrays() | {name: np.full(shape, Payload(trap), object)})

    assert f"{name} is a pickled object array" in refusal(file)
    assert not trap.exists()
    np.load(file, allow_pickle=True)[name]
    assert trap.exists(), "the payload works, so its absence above means something"


def npz_of(folder: Path, members: dict[str, bytes]) -> Path:
    file = folder / "params.npz"
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_promising(shape: tuple[int, ...], held: bytes = b"") -> bytes:
    """An npy whose header promises float32 of this shape, whatever it holds."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + held


def members(**changes: bytes) -> dict[str, bytes]:
    return {name: npy(array) for name, array in sae_arrays().items()} | changes


HEADERS = {
    "too little": (npy_promising((HIDDEN, D_SAE), bytes(100)), "takes 8192 bytes, the archive holds"),
    "nothing": (npy_promising((HIDDEN, D_SAE)), "takes 8192 bytes, the archive holds"),
    "far too much": (npy_promising((HIDDEN, D_SAE), bytes(100_000)), "takes 8192 bytes, the archive holds"),
    "a huge matrix": (npy_promising((1 << 20, 1 << 15)), "takes 137438953472 bytes, the archive holds"),
    "an absurd matrix": (npy_promising((1 << 40, 1 << 40)), "expected 2 dimension(s) of sensible size"),
    "beyond 64 bits": (npy_promising((10**30, 10**30)), "expected 2 dimension(s) of sensible size"),
    "no rows": (npy_promising((0, D_SAE)), "expected 2 dimension(s) of sensible size"),
    "one dimension": (npy_promising((D_SAE,)), "expected 2 dimension(s)"),
    "three dimensions": (npy_promising((HIDDEN, D_SAE, 1)), "expected 2 dimension(s)"),
    "a negative shape": (npy_promising((-4, -8), bytes(128)), "expected 2 dimension(s) of sensible size"),
    "no npy": (b"hello", "W_enc is not an npy array"),
    "no header": (b"\x93NUMPY\x01\x00", "W_enc is not an npy array"),
    "a header that is code": (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    ",
        "W_enc is not an npy array",
    ),
    "an unknown version": (b"\x93NUMPY\x09\x00" + bytes(200), "W_enc is not an npy array"),
}


@pytest.mark.parametrize(("content", "told"), HEADERS.values(), ids=HEADERS.keys())
def test_headers_are_checked_before_anything_is_read(tmp_path: Path, content: bytes, told: str) -> None:
    """A header that is damaged or promises what the archive does not hold is refused before memory is taken."""
    assert told in refusal(npz_of(tmp_path, members(W_enc=content)))


def test_an_archive_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    """A directory entry that backs up a header's false promise does not help: the data ends early."""
    file = npz_of(tmp_path, members(W_enc=npy_promising((HIDDEN, D_SAE), bytes(100))))
    raw = bytearray(file.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    promised = len(npy_promising((HIDDEN, D_SAE))) + 4 * HIDDEN * D_SAE
    raw[entry + 24 : entry + 28] = struct.pack("<I", promised)
    file.write_bytes(raw)

    assert "W_enc ends early" in refusal(file)


WRONG: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no W_enc": (
        lambda a: {n: a[n] for n in ("b_enc", "W_dec", "b_dec")},
        "no array W_enc; there is W_dec, b_dec, b_enc. Expected a Gemma Scope params.npz",
    ),
    "no b_enc": (lambda a: {n: a[n] for n in a if n != "b_enc"}, "no array b_enc; there is W_dec, W_enc, b_dec"),
    "no threshold": (lambda a: {n: a[n] for n in a if n != "threshold"}, "no array threshold; there is"),
    "another SAE": (lambda a: {"encoder.weight": a["W_enc"]}, "no array W_enc; there is encoder.weight"),
    "short b_enc": (lambda a: a | {"b_enc": a["b_enc"][:-1]}, "b_enc has shape (63,); W_enc (32, 64) asks for (64,)"),
    "long threshold": (lambda a: a | {"threshold": np.ones(65, np.float32)}, "threshold has shape (65,)"),
    "transposed W_enc": (lambda a: a | {"W_enc": a["W_enc"].T.copy()}, "asks for (32,)"),
    "scalar threshold": (lambda a: a | {"threshold": np.float32(0.1)}, "threshold has shape ()"),
    "flat W_enc": (lambda a: a | {"W_enc": a["W_enc"].ravel()}, "W_enc has shape (2048,); expected 2 dimension(s)"),
    "integers": (lambda a: a | {"W_enc": np.ones((HIDDEN, D_SAE), int)}, "W_enc is int64; expected one of float16"),
    "words": (lambda a: a | {"b_enc": np.full(D_SAE, "x")}, "b_enc is <U1"),
    "complex": (lambda a: a | {"b_enc": a["b_enc"].astype(complex)}, "b_enc is complex128"),
    "booleans": (lambda a: a | {"threshold": a["threshold"] > 0}, "threshold is bool"),
    "scaled": (lambda a: a | {"scaling_factor": np.full(D_SAE, 1.5)}, "scaling_factor is not 1"),
    "scaled somewhere": (
        lambda a: a | {"scaling_factor": np.r_[np.ones(D_SAE - 1), 2.0]},
        "scaling_factor is not 1",
    ),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_gemma_scope_sae_is_refused(tmp_path: Path, change: Callable[[Arrays], Arrays], told: str) -> None:
    """Arrays that are missing, of wrong shape or kind, or not folded are refused by name."""
    assert told in refusal(write(tmp_path, change(sae_arrays())), [3])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_watched_feature_must_be_finite(tmp_path: Path, name: str, value: float) -> None:
    """NaN or infinity in a watched feature, which could never be exceeded or always is, is refused."""
    where = (7, WATCHED[1]) if name == "W_enc" else WATCHED[1]
    file = write(tmp_path, with_value(sae_arrays(), name, value, where))

    assert f"{name} holds NaN or infinity in a watched feature" in refusal(file)


@pytest.mark.parametrize("name", NAMES)
def test_an_unwatched_feature_may_be_anything(tmp_path: Path, name: str) -> None:
    """A broken feature that nobody watches disturbs none that is watched."""
    arrays = sae_arrays()
    broken = with_value(arrays, name, np.nan, (7, 12) if name == "W_enc" else 12)

    assert_columns(arrays, load_columns(write(tmp_path, broken), WATCHED))


@pytest.mark.parametrize("feature", [D_SAE, -1, 10**9])
def test_a_feature_out_of_range_is_named(tmp_path: Path, feature: int) -> None:
    """Watching a feature the SAE does not have names it and the range there is."""
    file = write(tmp_path, sae_arrays())

    with pytest.raises(NoSuchFeature, match=f"there is no feature {feature} in .*; it has 0 to 63") as caught:
        load_columns(file, [3, feature])

    assert feature == caught.value.feature


def test_the_decoder_is_never_read(tmp_path: Path) -> None:
    """A file whose decoder is no array at all, or damaged, reads like a whole one."""
    arrays = sae_arrays()
    no_array = load_columns(npz_of(tmp_path, members(W_dec=b"not an array", b_dec=b"")), WATCHED)
    file = write(tmp_path, arrays)
    raw = bytearray(file.read_bytes())
    at = raw.index(arrays["W_dec"].tobytes())
    raw[at : at + 1000] = bytes(1000)
    file.write_bytes(raw)

    assert_columns(arrays, no_array)
    assert_columns(arrays, load_columns(file, WATCHED))


# Paths and hookpoints.


@pytest.mark.parametrize(
    ("path", "layer"),
    [
        ("layer_20/width_16k/average_l0_71/params.npz", 20),
        ("/hub/models--google--gemma-scope-2b-pt-res/snapshots/ab/layer_0/width_65k/average_l0_73/params.npz", 0),
        ("layer_3/copies/layer_12/params.npz", 12),
        ("my_layer_4/params.npz", None),
        ("layer_4b/params.npz", None),
        ("params.npz", None),
        ("gemma-scope-2b-pt-res/attic/layer_5/params.npz", 5),
        ("/embedding/gemma-scope-2b-pt-res/layer_5/params.npz", 5),
        ("gemma-scope-2b-pt-mlptest/layer_5/params.npz", 5),
    ],
)
def test_a_path_names_its_layer(path: str, layer: int | None) -> None:
    """The layer is the last whole folder called layer_N, if there is one."""
    assert layer == layer_of(Path(path))


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("gemma-scope-2b-pt-att/layer_5/width_16k/average_l0_78/params.npz", "gemma-scope-2b-pt-att"),
        ("models--google--gemma-scope-9b-pt-mlp/snapshots/ab/layer_5/params.npz", "gemma-scope-9b-pt-mlp"),
        ("/sae/gemma-scope-2b-pt-transcoders/layer_5/params.npz", "gemma-scope-2b-pt-transcoders"),
        ("embedding/width_4k/average_l0_111/params.npz", "embedding"),
        ("/sae/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_111/params.npz", "embedding"),
    ],
)
def test_releases_of_other_sites_are_refused(path: str, site: str) -> None:
    """An SAE made for another place than the residual stream is refused by its release's name."""
    with pytest.raises(SaeError, match=f"{site} is not a residual-stream release"):
        layer_of(Path(path))


def test_the_conftest_layout_is_the_released_one(tmp_path: Path) -> None:
    """The files the other tests use name their layer as released files do."""
    assert 7 == layer_of(save_sae(tmp_path, 7))


@pytest.mark.parametrize(
    "text",
    [
        "layers.20",
        "layers.20.resid_post",
        "model.layers.20",
        "model.layers.20.output",
        "language_model.model.layers.20.output",
        "blocks.20.hook_resid_post",
    ],
)
def test_hookpoints_are_read_in_every_spelling(text: str) -> None:
    """One place, however scopewatch, Hugging Face or TransformerLens write it."""
    assert Hookpoint(20) == parse_hookpoint(text)
    assert "layers.20.resid_post" == str(parse_hookpoint(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "layers.",
        "layers.-1",
        "layers.x",
        "layers.20.resid_pre",
        "layers.20.mlp",
        "model.layers.20.resid_post.output",
        "blocks.20.hook_mlp_out",
        "blocks.20.hook_resid_pre",
        "layers.20 ",
        "layers.20\n",
    ],
)
def test_other_hookpoints_are_refused(text: str) -> None:
    """A place that cannot be read is refused with an example of one that can."""
    with pytest.raises(SaeError, match=r"write it like layers\.20\.resid_post"):
        parse_hookpoint(text)
