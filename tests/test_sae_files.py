"""Reading weight files in parts: the same numbers from every layout, and a plain refusal of every unsafe file."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from conftest import D_SAE, HIDDEN, sae_arrays
from scopewatch.errors import NoSuchFeature, SaeError
from scopewatch.sae.encoder import Encoder
from scopewatch.sae.npz_file import open_npz
from scopewatch.sae.open import open_sae
from scopewatch.sae.safetensors_file import open_safetensors
from scopewatch.sae.tensors import Tensor, TensorFile
from scopewatch.sae.torch_file import open_torch

WATCHED = [3, 11, 40]
Arrays = dict[str, np.ndarray]
NAMES = ["W_enc", "b_enc", "threshold"]


def write(folder: Path, arrays: Arrays, *, compressed: bool = False) -> Path:
    file = folder / "params.npz"
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file


def write_safetensors(folder: Path, arrays: Arrays) -> Path:
    file = folder / "params.safetensors"
    save_file({name.lower(): np.ascontiguousarray(array) for name, array in arrays.items()}, file)
    return file


def read(file: Path, watched: list[int] = WATCHED) -> Encoder:
    return open_sae(file).encoder(watched)


def assert_columns(expected: Arrays, actual: Encoder, watched: list[int] = WATCHED) -> None:
    for name in NAMES:
        np.testing.assert_array_equal(expected[name][..., watched].astype(np.float32), getattr(actual, name))
        assert np.float32 == getattr(actual, name).dtype


def refusal(file: Path, watched: list[int] = WATCHED) -> str:
    """What an operator is told; it names the file and is one line."""
    with pytest.raises(SaeError) as caught:
        read(file, watched)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("watched", [[0], [D_SAE - 1], [40, 3, 11], [5, 5, 2], list(range(D_SAE))], ids=str)
@pytest.mark.parametrize("save", [write, write_safetensors])
def test_watched_columns_come_in_ascending_order(
    tmp_path: Path, watched: list[int], save: Callable[[Path, Arrays], Path]
) -> None:
    """Whatever the order asked for, the columns are those of the file, ascending, each once."""
    arrays = sae_arrays()
    sae = open_sae(save(tmp_path, arrays))

    assert_columns(arrays, sae.encoder(watched), sorted(set(watched)))
    assert (HIDDEN, D_SAE) == (sae.d_in, sae.d_sae)


def with_value(arrays: Arrays, name: str, value: float, where: tuple[int, ...] | int) -> Arrays:
    changed = arrays[name].copy()
    changed[where] = value
    return arrays | {name: changed}


LAYOUTS: dict[str, Callable[[Arrays], Arrays]] = {
    "as released": lambda a: a,
    "Fortran order": lambda a: a | {"W_enc": np.asfortranarray(a["W_enc"])},
    "lower-case keys": lambda a: {name.lower(): array for name, array in a.items()},
    "float64": lambda a: {name: array.astype(np.float64) for name, array in a.items()},
    "scaling factor of one": lambda a: a | {"scaling_factor": np.ones(D_SAE, np.float32)},
    "further arrays": lambda a: a | {"notes": np.array(["trained on a Tuesday"]), "steps": np.array(7)},
    "NaN where nobody looks": lambda a: with_value(a, "W_enc", np.nan, (0, 4)) | {"b_dec": a["b_dec"] * np.nan},
}


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "stored"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_gives_the_same_numbers(
    tmp_path: Path, layout: Callable[[Arrays], Arrays], compressed: bool
) -> None:
    """Memory order, spelling, precision and compression of a file do not change what is read from it."""
    arrays = sae_arrays()

    assert_columns(arrays, read(write(tmp_path, layout(arrays), compressed=compressed)))


# A matrix of every kind of file, in parts.

MATRIX = np.random.default_rng(3).normal(size=(37, 411)).astype(np.float32)


def as_npz(folder: Path, matrix: np.ndarray, *, order: str, compressed: bool) -> Tensor:
    file = folder / "m.npz"
    (np.savez_compressed if compressed else np.savez)(file, m=np.asarray(matrix, order=order))
    return open_npz(file)["m"]


def as_safetensors(folder: Path, matrix: np.ndarray, *, transposed: bool) -> Tensor:
    file = folder / "m.safetensors"
    save_file({"before": np.ones(3, np.float32), "m": np.ascontiguousarray(matrix.T if transposed else matrix)}, file)
    tensor = open_safetensors(file)["m"]
    return tensor.T if transposed else tensor


def as_torch(folder: Path, matrix: np.ndarray, *, transposed: bool) -> Tensor:
    file = folder / "m.pt"
    values = torch.from_numpy(np.ascontiguousarray(matrix))
    torch.save({"before": torch.ones(3), "m": values.T.contiguous().T if transposed else values}, file)
    return open_torch(file)["m"]


STORED: dict[str, Callable[[Path, np.ndarray], Tensor]] = {
    "npz": lambda f, m: as_npz(f, m, order="C", compressed=False),
    "npz, columns": lambda f, m: as_npz(f, m, order="F", compressed=False),
    "compressed npz": lambda f, m: as_npz(f, m, order="C", compressed=True),
    "compressed npz, columns": lambda f, m: as_npz(f, m, order="F", compressed=True),
    "safetensors": lambda f, m: as_safetensors(f, m, transposed=False),
    "safetensors, columns": lambda f, m: as_safetensors(f, m, transposed=True),
    "torch": lambda f, m: as_torch(f, m, transposed=False),
    "torch, columns": lambda f, m: as_torch(f, m, transposed=True),
}


@pytest.mark.parametrize("seek_bytes", [1, 1 << 14], ids=["seeking", "streaming"])
@pytest.mark.parametrize("chunk_bytes", [1, 4000, 1 << 24])
@pytest.mark.parametrize("store", STORED.values(), ids=STORED)
def test_parts_are_parts_of_the_whole(
    tmp_path: Path,
    store: Callable[[Path, np.ndarray], Tensor],
    chunk_bytes: int,
    seek_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Columns and rows of a matrix, neighbours or not, read in whatever pieces, are those of the matrix."""
    monkeypatch.setattr("scopewatch.sae.tensors._CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("scopewatch.sae.tensors._SEEK_BYTES", seek_bytes)
    tensor = store(tmp_path, MATRIX)
    columns, rows = np.array([0, 1, 77, 410]), np.array([2, 36])

    np.testing.assert_array_equal(MATRIX, tensor.read())
    np.testing.assert_array_equal(MATRIX.T, tensor.T.read())
    np.testing.assert_array_equal(MATRIX[:, columns], tensor.columns(columns))
    np.testing.assert_array_equal(MATRIX[rows], tensor.rows(rows))
    for neighbours in (np.arange(100, 103), np.arange(411), np.array([5, 6, 7, 100, 101, 409]), columns[:0]):
        np.testing.assert_array_equal(MATRIX[:, neighbours], tensor.columns(neighbours))
        np.testing.assert_array_equal(MATRIX[:, neighbours], tensor.on_disk(tmp_path).columns(neighbours))


PRECISIONS = ["float16", "float32", "float64", "bfloat16"]
SAVED: dict[str, Callable[[Path, torch.Tensor], TensorFile]] = {
    "npz": lambda file, values: (
        np.savez(file.with_suffix(".npz"), m=values.numpy()) or open_npz(file.with_suffix(".npz"))
    ),
    "safetensors": lambda file, values: save_tensors({"m": values}, file) or open_safetensors(file),
    "torch": lambda file, values: torch.save({"m": values}, file) or open_torch(file),
}


@pytest.mark.parametrize(
    ("store", "dtype"),
    [(store, dtype) for store in SAVED for dtype in PRECISIONS if (store, dtype) != ("npz", "bfloat16")],
)
def test_every_precision_is_read_as_the_float32_of_its_values(tmp_path: Path, store: str, dtype: str) -> None:
    """Half, brain and double precision become the float32 of the same values."""
    values = torch.from_numpy(MATRIX).to(getattr(torch, dtype))
    tensor = SAVED[store](tmp_path / "m", values)["m"]

    np.testing.assert_array_equal(values.float().numpy(), tensor.read())
    np.testing.assert_array_equal(values.float().numpy()[:, [7]], tensor.columns(np.array([7])))


def test_the_digests_are_those_of_the_files(tmp_path: Path) -> None:
    """Two files share a digest exactly if they are the same bytes, watched or not."""
    digests = []
    for seed, d_dec in ((1, 0), (1, 0), (1, 1), (2, 0)):
        arrays = sae_arrays(seed)
        arrays["b_dec"] = arrays["b_dec"] + d_dec
        digests.append(open_sae(write(tmp_path, arrays)).digests()["params.npz"])

    assert digests[0] == digests[1]
    assert 3 == len(set(digests))


def test_the_decoder_is_not_read_for_watching(tmp_path: Path) -> None:
    """A file whose decoder is damaged gives the watched columns of a whole one."""
    arrays = sae_arrays()
    file = write(tmp_path, arrays)
    raw = file.read_bytes()
    file.write_bytes(raw.replace(arrays["W_dec"].tobytes()[:1000], bytes(1000)))

    assert raw != file.read_bytes()
    assert_columns(arrays, read(file))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_a_watched_feature_must_be_finite(tmp_path: Path, name: str, value: float) -> None:
    """NaN or infinity in a watched feature, which could never be exceeded or always is, is refused."""
    file = write(tmp_path, with_value(sae_arrays(), name, value, (7, WATCHED[1]) if name == "W_enc" else WATCHED[1]))
    reasons = ("is NaN or infinite", "threshold is negative for some feature")

    assert any(reason in refusal(file) for reason in reasons)


@pytest.mark.parametrize("feature", [D_SAE, -1, 10**9])
def test_a_feature_out_of_range_is_named(tmp_path: Path, feature: int) -> None:
    """Watching a feature the SAE does not have names it and the range there is."""
    file = write(tmp_path, sae_arrays())

    with pytest.raises(NoSuchFeature, match=f"there is no feature {feature} in .*; it has 0 to 63") as caught:
        read(file, [3, feature])

    assert feature == caught.value.feature


# Files that are not what they should be.


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("store", ["stored", "compressed", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, store: str) -> None:
    """A download that stopped anywhere is refused as incomplete."""
    if store == "safetensors":
        file = write_safetensors(tmp_path, sae_arrays())
    else:
        file = write(tmp_path, sae_arrays(), compressed=store == "compressed")
    raw = file.read_bytes()
    file.write_bytes(raw[: int(share * len(raw))])

    assert "download it again" in refusal(file)


@pytest.mark.parametrize("ending", ["npz", "safetensors", "pt", "pth"])
@pytest.mark.parametrize(
    "make",
    [
        lambda _: None,
        lambda f: f.write_bytes(b""),
        lambda f: f.write_text("<html>not found</html>"),
        lambda f: f.write_bytes(npy(np.ones(3))),
        lambda f: zipfile.ZipFile(f, "w").close(),
        lambda f: f.write_bytes(pickle.dumps({"W_enc": 1})),
        lambda f: f.write_bytes(bytes(10_000)),
        lambda f: f.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 302053366\n"),
    ],
    ids=["missing", "empty", "page", "npy", "empty zip", "pickle", "zeros", "LFS pointer"],
)
def test_what_is_no_weights_file_is_refused(tmp_path: Path, ending: str, make: Callable[[Path], object]) -> None:
    """A path that holds something else, or nothing, is refused in one line."""
    file = tmp_path / f"params.{ending}"
    make(file)

    refusal(file)


class Small:
    """A small file of each kind and what reads its table."""

    def __init__(self, folder: Path, ending: str) -> None:
        arrays = sae_arrays(d_in=8, d_sae=6)
        self.open: Callable[[Path], TensorFile] = open_npz
        if ending == "safetensors":
            self.file, self.open = write_safetensors(folder, arrays), open_safetensors
        elif ending == "pt":
            self.file, self.open = folder / "ae.pt", open_torch
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, self.file)
        else:
            self.file = write(folder, arrays, compressed=ending == "compressed")
        self.raw = self.file.read_bytes()


@pytest.fixture(scope="module", params=["stored", "compressed", "safetensors", "pt"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"), request.param)


def tables(small: Small, content: bytes) -> dict[str, np.ndarray] | None:
    """Every array of the damaged file; None if it was refused as an SAE error."""
    damaged = small.file.with_stem("damaged")
    damaged.write_bytes(content)
    try:
        return {name: tensor.expect(*tensor.shape).read() for name, tensor in small.open(damaged).tensors.items()}
    except SaeError:
        return None


def test_a_file_cut_anywhere_is_refused(small: Small) -> None:
    """There is no length but its own at which a file is read."""
    lengths = range(0, len(small.raw), max(1, len(small.raw) // 150))

    assert [] == [length for length in lengths if tables(small, small.raw[:length]) is not None]


@given(data=st.data())
def test_damage_is_refused_or_bounded(small: Small, data: st.DataObject) -> None:
    """With any bytes changed, a file is refused as an SAE error or read within its own size, never else."""
    raw = bytearray(small.raw)
    # The tables at both ends are where damage does most.
    place = st.integers(0, len(raw) - 1) | st.integers(0, 400) | st.integers(len(raw) * 3 // 4, len(raw) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)):
        raw[at] = value
    found = tables(small, bytes(raw))

    assert found is None or sum(array.nbytes for array in found.values()) < 100 * len(raw)


def test_a_flipped_bit_in_an_npz_is_noticed(tmp_path: Path) -> None:
    """Weights whose checksum does not hold are refused, even where the archive is otherwise whole."""
    arrays = sae_arrays()
    file = write(tmp_path, arrays)
    raw = bytearray(file.read_bytes())
    raw[raw.index(arrays["W_enc"].tobytes()) + 4 * WATCHED[0]] ^= 1
    file.write_bytes(raw)

    assert "not a complete npz archive (Bad CRC-32" in refusal(file)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    """An archive marked as encrypted is refused, not a crash."""
    file = write(tmp_path, sae_arrays())
    raw = bytearray(file.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(raw)

    assert "encrypted" in refusal(file)


# Code in files.


class Payload:
    """Unpickled, it creates a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("name", [*NAMES, "scaling_factor"])
def test_pickles_in_npz_are_refused_and_never_opened(tmp_path: Path, name: str) -> None:
    """An object array, which could run code when loaded, is refused unread."""
    trap = tmp_path / "sprung"
    shape = (HIDDEN, D_SAE) if name == "W_enc" else (D_SAE,)
    file = write(tmp_path, sae_arrays() | {name: np.full(shape, Payload(trap), object)})

    assert f"{name} is a pickled object array" in refusal(file)
    assert not trap.exists()
    np.load(file, allow_pickle=True)[name]
    assert trap.exists(), "the payload works, so its absence above means something"


def save_torch(folder: Path, held: object, **options: object) -> Path:
    file = folder / "ae.pt"
    torch.save(held, file, **options)
    return file


@pytest.mark.parametrize("ending", ["pt", "pth"])
def test_code_in_a_torch_file_is_refused_and_never_run(tmp_path: Path, ending: str) -> None:
    """A torch file that would run code when loaded is refused, and the code has not run."""
    trap = tmp_path / "sprung"
    file = save_torch(tmp_path, {"W_enc": torch.ones(2, 2), "more": Payload(trap)}).rename(tmp_path / f"a.{ending}")

    assert "holds more than tensors; it is refused, since loading it could run code" in refusal(file)
    assert not trap.exists()
    torch.load(file, weights_only=False)
    assert trap.exists(), "the payload works, so its absence above means something"


def test_the_old_torch_format_is_refused(tmp_path: Path) -> None:
    """A file of the format before torch 1.6, a bare pickle, is refused with a way out."""
    file = save_torch(tmp_path, {"W_enc": torch.ones(2, 2)}, _use_new_zipfile_serialization=False)

    assert "not a complete torch file of version 1.6 or later" in refusal(file)
    assert "save it anew with a current torch" in refusal(file)


@pytest.mark.parametrize(
    ("held", "told"),
    [
        ([torch.ones(2)], "holds a list; expected a dictionary of tensors"),
        (torch.ones(2), "expected a dictionary of tensors"),
        ({"a": torch.ones(4, 4)[::2, ::2]}, "a is a view with gaps; save it anew as a contiguous tensor"),
        ({"a": torch.ones(2, 2).to_sparse()}, "a is no plain tensor"),
        ({"sae": {"W_enc": torch.ones(2, 2)}}, "of no known SAE format; it holds no arrays"),
    ],
    ids=["list", "tensor", "gaps", "sparse", "nested"],
)
def test_other_things_in_torch_files_are_refused(tmp_path: Path, held: object, told: str) -> None:
    """What is no dictionary of plain tensors is refused by what it is."""
    assert told in refusal(save_torch(tmp_path, held))


def rezip(file: Path, change: Callable[[zipfile.ZipInfo, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(file) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(file, "w", compression) as archive:
        for entry, content in entries:
            archive.writestr(entry.filename, change(entry, content))


def test_a_compressed_torch_file_is_refused(tmp_path: Path) -> None:
    """Compression, which torch does not use and a bomb would, is refused before anything is unpacked."""
    file = save_torch(tmp_path, {"a": torch.ones(9)})
    rezip(file, lambda _, content: content, zipfile.ZIP_DEFLATED)

    assert "is compressed, which torch never writes" in refusal(file)


def test_a_huge_table_in_a_torch_file_is_refused(tmp_path: Path) -> None:
    """A table of tensors of many megabytes is refused before it is unpickled."""
    file = save_torch(tmp_path, {"a": torch.ones(9)})
    rezip(file, lambda entry, content: bytes(9 << 20) if entry.filename.endswith("data.pkl") else content)

    assert "data.pkl is 9437184 bytes long, which no SAE's is" in refusal(file)


def test_a_torch_tensor_beyond_its_record_is_refused(tmp_path: Path) -> None:
    """A tensor whose bytes are not all there is refused, whatever its table promises."""
    file = save_torch(tmp_path, {"encoder_linear.weight": torch.ones(9, 9)})
    rezip(file, lambda entry, content: content[:-4] if entry.filename.endswith("data/0") else content)

    refusal(file)


# Files that promise more than they hold.


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
    "a huge matrix": (npy_promising((1 << 17, 1 << 17)), "takes 68719476736 bytes, the archive holds"),
    "an absurd matrix": (npy_promising((1 << 40, 1 << 40)), "which no SAE has"),
    "beyond 64 bits": (npy_promising((10**30, 10**30)), "which no SAE has"),
    "empty": (npy_promising((0, 0)), "which no SAE has"),
    "one dimension": (npy_promising((D_SAE,), bytes(4 * D_SAE)), "expected (any, any)"),
    "three dimensions": (npy_promising((HIDDEN, D_SAE, 1), bytes(8192)), "expected (any, any)"),
    "a negative shape": (npy_promising((-4, -8), bytes(128)), "which no SAE has"),
    "no npy": (b"hello", "W_enc is not an npy array"),
    "no header": (b"\x93NUMPY\x01\x00", "W_enc is not an npy array"),
    "a header that is code": (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    ",
        "W_enc is not an npy array",
    ),
    "an open bracket": (
        b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"{'shape': (40, 130  ",
        "W_enc is not an npy array",
    ),
    "an unknown version": (b"\x93NUMPY\x09\x00" + bytes(200), "W_enc is not an npy array"),
}


def test_an_array_that_stands_twice_is_refused(tmp_path: Path) -> None:
    """Of two arrays of one name neither is taken."""
    file = write(tmp_path, sae_arrays())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("b_enc.npy", npy(np.zeros(D_SAE, np.float32)))

    assert "an array stands twice" in refusal(file)


@pytest.mark.parametrize(("content", "told"), HEADERS.values(), ids=HEADERS)
def test_npy_headers_are_checked_before_anything_is_read(tmp_path: Path, content: bytes, told: str) -> None:
    """A header that is damaged or promises what the archive does not hold is refused before memory is taken."""
    assert told in refusal(npz_of(tmp_path, members(W_enc=content)))


def test_an_archive_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    """A directory entry that backs up a header's false promise does not help: the data ends early."""
    file = npz_of(tmp_path, members(W_enc=npy_promising((HIDDEN, D_SAE), bytes(100))))
    raw = bytearray(file.read_bytes())
    entry = raw.index(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", len(npy_promising((HIDDEN, D_SAE))) + 4 * HIDDEN * D_SAE)
    file.write_bytes(raw)

    assert "W_enc ends early" in refusal(file)


def test_a_zip_bomb_costs_no_memory(tmp_path: Path) -> None:
    """A member that unpacks to a thousand times its size is read in bounded memory, or not at all."""
    file = tmp_path / "params.npz"
    d_in, d_sae = 512, 1 << 17
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("W_enc.npy", npy_promising((d_in, d_sae), bytes(4 * d_in * d_sae)))
        archive.writestr("b_enc.npy", npy(np.zeros(d_sae, np.float32)))
        archive.writestr("threshold.npy", npy(np.ones(d_sae, np.float32)))
        archive.writestr("notes.npy", bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(SaeError, match="notes is not an npy array"):
        open_sae(file)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert file.stat().st_size < 1 << 20
    assert peak_bytes < 8 << 20


def test_an_encoder_is_read_in_a_small_part_of_its_size(tmp_path: Path) -> None:
    """64 MiB of compressed encoder pass through a few chunks."""
    d_in, d_sae = 256, 1 << 16
    file = tmp_path / "params.npz"
    wide = {"W_enc": np.ones((d_in, d_sae), np.float32)} | {
        n: np.ones(d_sae, np.float32) for n in ("b_enc", "threshold")
    }
    np.savez_compressed(file, **wide)
    del wide
    tracemalloc.start()
    read(file)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak_bytes < 50 << 20


_MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from scopewatch.sae.open import open_sae
def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak_bytes()
encoder = open_sae(Path(sys.argv[1])).encoder(np.linspace(0, (1 << 20) - 1, 64).astype(int).tolist())
assert (2304, 64) == encoder.W_enc.shape
assert 2.5 == encoder.W_enc[1000, 63]
print(peak_bytes() - before)
"""


def test_64_features_of_a_million_need_a_few_megabytes(tmp_path: Path) -> None:
    """Watching 64 features of a Gemma Scope 2 SAE 1M wide (9.7 GB of encoder, here made of holes) fits any pod."""
    d_in, d_sae = 2304, 1 << 20
    sizes = {"w_enc": (d_in, d_sae), "b_enc": (d_sae,), "threshold": (d_sae,), "w_dec": (d_sae, d_in), "b_dec": (d_in,)}
    ends = np.cumsum([4 * np.prod(shape) for shape in sizes.values()]).tolist()
    begins = dict(zip(sizes, [0, *ends], strict=False))
    header = header_of(
        **{name: entry(begins[name], begins[name] + 4 * int(np.prod(s)), s) for name, s in sizes.items()}
    )
    file = tmp_path / "params.safetensors"
    with file.open("wb") as stream:
        stream.write(header)
        stream.seek(len(header) + 4 * (1000 * d_sae + d_sae - 1))
        stream.write(np.float32(2.5).tobytes())
        stream.truncate(len(header) + ends[-1])
    run = subprocess.run([sys.executable, "-c", _MEASURE, file], capture_output=True, text=True, check=False)
    file.unlink()

    assert "" == run.stderr
    assert int(run.stdout) < 100 << 20


def header_of(**entries: object) -> bytes:
    content = json.dumps(entries).encode()
    return struct.pack("<Q", len(content)) + content


def entry(begin: object, end: object, shape: object = (2,), dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "overlap": (header_of(a=entry(0, 8), b=entry(4, 12)) + bytes(12), "b is at 4 and should be at 8"),
    "the same bytes": (header_of(a=entry(0, 8), b=entry(0, 8)) + bytes(8), "b is at 0 and should be at 8"),
    "gap": (header_of(a=entry(0, 8), b=entry(12, 20)) + bytes(20), "b is at 12 and should be at 8"),
    "beyond the end": (header_of(a=entry(0, 8)) + bytes(4), "the end is at 4 and should be at 8"),
    "something after": (header_of(a=entry(0, 8)) + bytes(12), "the end is at 12 and should be at 8"),
    "far beyond": (header_of(a=entry(1 << 50, (1 << 50) + 8)) + bytes(8), "a is at 1125899906842624"),
    "before the beginning": (header_of(a=entry(-8, 0)) + bytes(8), "header is damaged"),
    "backwards": (header_of(a=entry(8, 0)) + bytes(8), "header is damaged"),
    "too short for its shape": (header_of(a=entry(0, 8, (3,))) + bytes(8), "takes 12 bytes, the file holds 8"),
    "absurd shape": (header_of(a=entry(0, 8, (1 << 40, 1 << 40))) + bytes(8), "which no SAE has"),
    "negative shape": (header_of(a=entry(0, 8, (-2, -1))) + bytes(8), "header is damaged"),
    "shape of words": (header_of(a=entry(0, 8, ("2",))) + bytes(8), "header is damaged"),
    "shape of a number": (header_of(a=entry(0, 8, 2)) + bytes(8), "header is damaged"),
    "no dtype": (header_of(a={"shape": [2], "data_offsets": [0, 8]}) + bytes(8), "header is damaged"),
    "dtype of lists": (header_of(a=entry(0, 8, dtype=[])) + bytes(8), "header is damaged"),
    "offsets of words": (header_of(a=entry("0", "8")) + bytes(8), "header is damaged"),
    "an entry that is none": (header_of(a=3), "header is damaged"),
    "a list": (struct.pack("<Q", 2) + b"[]", "header is damaged"),
    "metadata of lists": (header_of(__metadata__={"a": []}, a=entry(0, 8)) + bytes(8), "its metadata is no text"),
    "one name twice": (
        struct.pack("<Q", 127)
        + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(
            127
        )
        + bytes(8),
        "a name stands twice",
    ),
    "a header without end": (struct.pack("<Q", 1 << 60) + b"{", "not a safetensors file"),
    "a header of many megabytes": (struct.pack("<Q", 9 << 20) + b" " * (9 << 20), "not a safetensors file"),
    "great depth": (struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "header is damaged"),
    "no JSON": (struct.pack("<Q", 9) + b"not JSON.", "header is damaged"),
    "no text": (struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe", "header is damaged"),
}


@pytest.mark.parametrize(("content", "told"), SAFETENSORS.values(), ids=SAFETENSORS)
def test_safetensors_headers_are_checked_before_anything_is_read(tmp_path: Path, content: bytes, told: str) -> None:
    """Arrays that overlap, lie outside the file or leave gaps, and headers that are no table, are refused."""
    file = tmp_path / "params.safetensors"
    file.write_bytes(content)

    assert told in refusal(file)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float8_e4m3fn", "int32", "int64", "bool", "complex64"])
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_quantised_and_other_types_are_refused_by_name(tmp_path: Path, dtype: str, ending: str) -> None:
    """Weights of a type whose values are not what they stand for are refused."""
    file = tmp_path / f"a.{ending}"
    matrix = torch.ones(4, 6).to(getattr(torch, dtype))
    held = {"encoder_linear.weight": matrix, "encoder_linear.bias": torch.ones(4)}
    held |= {"decoder_linear.weight": torch.ones(6, 4), "decoder_linear.bias": torch.ones(6)}
    if ending == "safetensors":
        vectors = {"b_enc": torch.ones(6), "threshold": torch.ones(6), "b_dec": torch.ones(4)}
        save_tensors({"w_enc": matrix, "w_dec": torch.ones(6, 4)} | vectors, file)
    else:
        torch.save(held, file)

    assert "expected one of float16, bfloat16, float32, float64" in refusal(file)


WRONG: dict[str, tuple[Callable[[Arrays], Arrays], str]] = {
    "no W_enc": (
        lambda a: {n: a[n] for n in ("b_enc", "W_dec", "b_dec")},
        "no array W_enc; there is W_dec, b_dec, b_enc",
    ),
    "no b_enc": (lambda a: {n: a[n] for n in a if n != "b_enc"}, "no array b_enc; there is W_dec, W_enc, b_dec"),
    "no threshold": (lambda a: {n: a[n] for n in a if n != "threshold"}, "no array threshold; there is"),
    "another SAE": (lambda a: {"encoder.weight": a["W_enc"]}, "no array W_enc; there is encoder.weight"),
    "short b_enc": (lambda a: a | {"b_enc": a["b_enc"][:-1]}, "b_enc has shape (63,); expected (64,)"),
    "long threshold": (
        lambda a: a | {"threshold": np.ones(65, np.float32)},
        "threshold has shape (65,); expected (64,)",
    ),
    "transposed W_enc": (lambda a: a | {"W_enc": a["W_enc"].T.copy()}, "expected (32,)"),
    "transposed W_dec": (lambda a: a | {"W_dec": a["W_dec"].T.copy()}, "W_dec has shape (32, 64); expected (64, any)"),
    "b_dec of another place": (
        lambda a: a | {"b_dec": np.ones(31, np.float32)},
        "b_dec has shape (31,); expected (32,)",
    ),
    "scalar threshold": (lambda a: a | {"threshold": np.float32(0.1)}, "threshold has shape (); expected (any,)"),
    "flat W_enc": (lambda a: a | {"W_enc": a["W_enc"].ravel()}, "W_enc has shape (2048,); expected (any, any)"),
    "integers": (lambda a: a | {"W_enc": np.ones((HIDDEN, D_SAE), int)}, "W_enc is int64; expected one of float16"),
    "words": (lambda a: a | {"b_enc": np.full(D_SAE, "x")}, "b_enc is str"),
    "complex": (lambda a: a | {"b_enc": a["b_enc"].astype(complex)}, "b_enc is complex128"),
    "booleans": (lambda a: a | {"threshold": a["threshold"] > 0}, "threshold is bool"),
    "other byte order": (lambda a: a | {"W_enc": a["W_enc"].astype(">f4")}, "W_enc is >f4"),
    "below 0": (lambda a: with_value(a, "threshold", -0.1, 9), "threshold is negative for some feature"),
    "scaled": (lambda a: a | {"scaling_factor": np.full(D_SAE, 1.5)}, "scaling_factor is not 1"),
    "scaled somewhere": (lambda a: a | {"scaling_factor": np.r_[np.ones(D_SAE - 1), 2.0]}, "scaling_factor is not 1"),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG)
def test_arrays_of_wrong_kind_are_refused_by_name(
    tmp_path: Path, change: Callable[[Arrays], Arrays], told: str
) -> None:
    """Arrays that are missing, of wrong shape or kind, or not folded are refused by name."""
    assert told in refusal(write(tmp_path, change(sae_arrays())), [3])


def test_names_in_files_are_never_paths(tmp_path: Path) -> None:
    """An array named like a path outside leaves nothing there when it is uncompressed."""
    room = tmp_path / "room"
    room.mkdir()
    np.savez(tmp_path / "a.npz", **{"../../escaped": MATRIX})
    tensor = open_npz(tmp_path / "a.npz")["../../escaped"]

    np.testing.assert_array_equal(MATRIX, tensor.on_disk(room).read())
    assert 1 == len(list(room.iterdir()))
    assert {"a.npz", "room"} == {entry.name for entry in tmp_path.iterdir()}
