"""What an SAE's width costs: loading 64 features of 1M and of 16k, and scoring with them.

    python bench/width.py

The SAEs are Gemma Scope 2 files of real size (2304 x 1,048,576 in float32 is 9.7 GB of encoder and as much decoder)
made of holes, with some columns written. Each is loaded in a process of its own, so that its peak resident size can be
told. Then batches go in turn through one layer of the Gemma 2 2B shape with the one and the other; medians of 15.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Gemma2Config, Gemma2Model

from scopewatch.engine.runner import PlacedEncoder, Runner
from scopewatch.reader.hookpoints import Hookpoint
from scopewatch.reader.loading import load_reader
from scopewatch.sae.open import open_sae

D_IN = 2304
WIDTHS = {"16k": 16_384, "1m": 1_048_576}
WATCHED = 64
BATCHES = 15


def watched(d_sae: int) -> list[int]:
    return np.linspace(0, d_sae - 1, WATCHED).astype(int).tolist()


def write_sae(folder: Path, d_sae: int) -> Path:
    """A residual SAE whose unwatched columns are holes in the file."""
    place = folder / "resid_post" / f"layer_0_width_{d_sae}_l0_medium"
    place.mkdir(parents=True)
    shapes = {
        "w_enc": (D_IN, d_sae),
        "b_enc": (d_sae,),
        "threshold": (d_sae,),
        "w_dec": (d_sae, D_IN),
        "b_dec": (D_IN,),
    }
    ends = np.cumsum([4 * np.prod(shape, dtype=np.int64) for shape in shapes.values()]).tolist()
    table = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
        for (name, shape), begin, end in zip(shapes.items(), [0, *ends], ends, strict=False)
    }
    header = json.dumps(table).encode()
    file = place / "params.safetensors"
    columns = np.random.default_rng(0).normal(scale=0.1, size=(D_IN, WATCHED)).astype("<f4")
    with file.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + ends[-1])
        for row in range(D_IN):
            for place_in_row, value in zip(watched(d_sae), columns[row], strict=True):
                stream.seek(8 + len(header) + 4 * (row * d_sae + place_in_row))
                stream.write(value.tobytes())
    return file


def rss_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def load(file: Path, d_sae: int) -> dict[str, float]:
    """Loads the watched columns and the digest, in this process."""
    before = rss_mib()
    started = time.perf_counter()
    sae = open_sae(file)
    encoder = sae.encoder(watched(d_sae))
    read_s = time.perf_counter() - started
    assert encoder.W_enc.shape == (D_IN, WATCHED)
    assert encoder.W_enc.all()
    sae.digests()
    return {
        "baseline_mib": round(before),
        "above_baseline_mib": round(rss_mib() - before),
        "columns_s": round(read_s, 2),
        "digest_s": round(time.perf_counter() - started - read_s, 2),
    }


def score(folder: Path, files: dict[str, Path]) -> dict[str, float]:
    """Seconds per batch with each SAE, measured in turn."""
    config = Gemma2Config(
        vocab_size=512,
        hidden_size=D_IN,
        intermediate_size=9216,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=256,
    )
    Gemma2Model(config).save_pretrained(folder / "reader")
    runners = {}
    for name, file in files.items():
        reader = load_reader(folder / "reader", name="r", revision="", deepest_layer=0, device="auto", dtype="auto")
        encoder = open_sae(file).encoder(watched(WIDTHS[name]))
        runners[name] = Runner(reader, [PlacedEncoder(Hookpoint(0), encoder)], row_tokens=4096)
    rng = np.random.default_rng(0)
    batch = [rng.integers(0, 512, size=256).astype(np.int32) for _ in range(4)]
    times: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(BATCHES + 1):
        for name, runner in runners.items():
            started = time.perf_counter()
            runner(batch)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def in_seconds() -> dict[str, float]:
    """Seconds per batch with each width, without the digests, which take long."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return score(folder, {name: write_sae(folder / name, d_sae) for name, d_sae in WIDTHS.items()})


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(load(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = {name: write_sae(folder / name, d_sae) for name, d_sae in WIDTHS.items()}
        for name, file in files.items():
            told = subprocess.run(
                [sys.executable, __file__, "load", str(file), str(WIDTHS[name])],
                check=True,
                capture_output=True,
                text=True,
            )
            print(f"{name:4} {file.stat().st_size / 1e9:5.1f} GB  {told.stdout.strip()}")
        seconds = score(folder, files)
        print({name: f"{value * 1000:.1f} ms a batch" for name, value in seconds.items()})
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"width_1m_over_16k on {device}: {seconds['1m'] / seconds['16k']:.3f}")


if __name__ == "__main__":
    main()
