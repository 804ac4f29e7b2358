"""How long a start takes is told part by part, and it reads no more than it needs."""

import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from conftest import House, save_reader, watchlist_document
from scopewatch import logs
from scopewatch.app.load import load
from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import choices
from scopewatch.errors import ReaderError
from scopewatch.logs import Laps
from scopewatch.logs.lines import TextLines
from scopewatch.reader.loading import Reader, load_reader
from scopewatch.sae.weights import Sae
from scopewatch.watch.watchlist import load_watchlist
from servers import ServerProcess

PARTS = ["imports", "ports", "watchlists", "saes", "reader", "tokenizer", "memory", "labels", "warm_up"]
LATER_LAYER = re.compile(r"model\.layers\.[23]\..*")


def read(directory: Path) -> Reader:
    """The reader down to layer 1 of 0 to 3."""
    return load_reader(directory, name="r", revision="", deepest_layer=1, device="cpu", dtype="float32")


def rewrite(directory: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    """Saves a reader's weights anew, each as `change` makes it from its name and values."""
    file = directory / "model.safetensors"
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    save_file({name: change(name, weight) for name, weight in load_file(file).items()}, file, metadata)


def began_s(process: int) -> float:
    """When a process began, in seconds since the epoch."""
    ticks = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


# What is told


def test_the_parts_of_a_start_are_told_and_add_up(bundled: ServerProcess) -> None:
    """`serving` says how long the start took since the process began, and its parts leave nothing of that out."""
    line = bundled.wait_for("serving")
    parts = line["start_parts_s"]
    logged_s = datetime.fromisoformat(line["time"]).timestamp()

    assert PARTS == list(parts)
    # A busy machine may let time pass between the measurement and the line.
    assert line["start_s"] == pytest.approx(logged_s - began_s(bundled.process.pid), abs=0.5)
    assert line["start_s"] == pytest.approx(sum(parts.values()), abs=0.005 + 0.0005 * len(parts))
    assert min(parts.values()) >= 0
    # Python alone, let alone torch, takes longer.
    assert parts["imports"] > 0.1


def test_the_parts_are_a_metric(bundled: ServerProcess) -> None:
    """Every part is a series of one gauge, with the seconds that the log tells."""
    told = bundled.wait_for("serving")["start_parts_s"]

    assert told == {part: round(bundled.metric("scopewatch_startup_seconds", part=part), 3) for part in PARTS}


def test_a_text_log_tells_the_parts_readably() -> None:
    """Whoever reads the log as text sees names and numbers, not the inside of a dict."""
    record = logging.makeLogRecord(
        {"msg": "serving", "levelname": "INFO", "start_s": 4.2, "start_parts_s": {"imports": 3.9, "reader": 0.3}}
    )

    assert "info    serving start_s=4.2 start_parts_s=(imports 3.9, reader 0.3)" == TextLines().format(record)


def test_laps_leave_no_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that were measured elsewhere count once, what passed around them goes to the next part, a part may return."""
    clock = iter([3.0, 9.0, 10.0])
    monkeypatch.setattr(logs.time, "monotonic", lambda: next(clock))
    laps = Laps(since_s=1.0)
    laps.end("imports")
    laps.take({"reader": 4.0, "imports": 1.0})
    laps.end("warm_up")
    laps.end("imports")

    assert {"imports": 4.0, "reader": 4.0, "warm_up": 1.0} == laps.seconds


def test_a_process_knows_when_it_began() -> None:
    """The start of a process is not later than its first line of Python, and not before its parent asked for it."""
    script = (
        "import time; first = time.monotonic(); time.sleep(0.3); from scopewatch.app.server import process_start_s; "
        "print(process_start_s(), first)"
    )
    asked = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    began, first = map(float, done.stdout.split())

    # The kernel counts in hundredths of a second.
    assert asked - 0.02 <= began <= first


# What is read


def test_what_is_wrong_is_said_before_torch_is_imported(house: House, tmp_path: Path) -> None:
    """A watchlist's mistake does not wait for the seconds that torch takes."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump(watchlist_document(indicators=[])))
    script = (
        "import sys; from scopewatch.config import Config; from scopewatch.errors import SetupError\n"
        "from scopewatch.app.server import load\n"
        "try: load(Config(watchlist=[sys.argv[1]]))\n"
        "except SetupError as error: print(error, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script, str(wrong)], capture_output=True, text=True, check=True)

    assert "wrong.yaml" in done.stdout
    assert "indicators" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_later_layers_are_neither_loaded_nor_digested(tmp_path: Path) -> None:
    """Whatever lies in the layers below which nothing is watched: it is the same reader, with the same activations."""
    first, second = (save_reader(tmp_path / name) for name in ("a", "b"))
    rewrite(second, lambda name, weight: torch.full_like(weight, torch.nan) if LATER_LAYER.fullmatch(name) else weight)
    readers = [read(first), read(second)]
    ids = torch.arange(10, 30)[None]

    outputs = [reader.model(input_ids=ids, use_cache=False).last_hidden_state for reader in readers]

    assert readers[0].identity.digest == readers[1].identity.digest
    assert torch.equal(outputs[0], outputs[1])
    assert torch.isfinite(outputs[0]).all()


def swapped(name: str, weight: torch.Tensor) -> torch.Tensor:
    """One weight's numbers in another order."""
    return weight.flip(0) if name == "model.layers.0.input_layernorm.weight" else weight


def halved(name: str, weight: torch.Tensor) -> torch.Tensor:
    """One weight in another type."""
    return weight.half() if name == "model.norm.weight" else weight


@pytest.mark.parametrize("change", [swapped, halved])
def test_every_weight_that_is_read_is_digested(
    tmp_path: Path, change: Callable[[str, torch.Tensor], torch.Tensor]
) -> None:
    """Another value or another type of one loaded weight makes another reader."""
    directory = save_reader(tmp_path / "reader")
    rewrite(directory, lambda name, weight: weight + torch.arange(len(weight)).view(-1, *[1] * (weight.dim() - 1)))
    before = read(directory).identity.digest
    rewrite(directory, change)

    assert before != read(directory).identity.digest


def test_the_digest_does_not_depend_on_the_packing(tmp_path: Path) -> None:
    """The same weights in two files, under the prefix of a multimodal checkpoint, are the same reader."""
    directory = save_reader(tmp_path / "reader")
    before = read(directory).identity.digest
    weights = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    for number in range(2):
        own = {f"language_model.{name}": weights[name] for name in sorted(weights)[number::2]}
        save_file(own, directory / f"part-{number}.safetensors", {"format": "pt"})

    assert before == read(directory).identity.digest


def test_a_reader_that_cannot_be_loaded_is_told_of(tmp_path: Path) -> None:
    """While another thread digests the weights, what is wrong with them is still one clear error."""
    directory = save_reader(tmp_path / "reader")
    rewrite(directory, lambda name, weight: weight[:-1].clone() if name.endswith("0.mlp.up_proj.weight") else weight)

    with pytest.raises(ReaderError, match=r"layers\.0\.mlp\.up_proj\.weight has shape"):
        read(directory)


def test_a_second_start_reads_no_sae(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once there are watch packs, a service starts from them, whatever it would cost to read the SAEs."""
    config = Config(watchlist=(house.watchlist,), pack_dir=str(tmp_path / "packs"))
    first = load(config)
    for reading in ("encoder", "digests"):
        monkeypatch.setattr(Sae, reading, lambda *_: pytest.fail("the SAE was read"))

    assert first.engine.identity == load(config).engine.identity


def test_an_engine_tells_its_parts(house: House) -> None:
    """Whoever builds an engine may hand in laps, and learns what its parts took."""
    laps = Laps()
    build_engine(*choices([load_watchlist(house.watchlist)]), Config(), laps)

    assert ["saes", "reader", "tokenizer", "memory"] == list(laps.seconds)
    assert min(laps.seconds.values()) > 0
