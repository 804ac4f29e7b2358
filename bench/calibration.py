"""What it costs to read pairs through the whole dictionary and to pool every feature, for a narrow and a wide SAE.

    python bench/calibration.py DATA.jsonl [--d-sae 262144] [--device cpu] [--torch-threads 2]

The narrow one is the bundled SAE. The wide one has random weights, at the same place of the same reader, and thresholds
that about 60 features pass on each token of the first pairs; it is a Gemma Scope file in a temporary folder. Each width
is read in a process of its own, so that its peak resident size can be told.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.engine.dictionary import DictionaryEngine, build_dictionary
from scopewatch.pairs.data_files import read_texts
from scopewatch.pairs.kept_poolings import POOLINGS
from scopewatch.pairs.pooled import encode_pairs
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Segment

_BUNDLED = BUNDLED_WATCHLIST.parent
_FIRING = 60
_SAMPLE_PAIRS = 64


def engine(sae: Path, config: Config) -> DictionaryEngine:
    return build_dictionary(
        ReaderSource(path=str(_BUNDLED / "reader")), SaeSource(path=str(sae), hookpoint="layers.2.resid_post"), config
    )


def residuals(data: Path, bundled: DictionaryEngine) -> np.ndarray:
    """Activations of the responses of some pairs, shape (tokens, d_in)."""
    pairs = [item.pair for item in read_texts(data).pairs[:_SAMPLE_PAIRS]]
    tokens = [outcome for outcome in bundled.tokeniser.tokenise(pairs) if not isinstance(outcome, Exception)]
    read = bundled.encode(tokens, Segment.RESPONSE)
    return np.concatenate([found.residual for found in read if not isinstance(found, Exception)])


def write_wide(folder: Path, d_sae: int, x: np.ndarray) -> Path:
    """An SAE of random directions, each with a threshold that as many of the tokens `x` pass as of all others."""
    rng = np.random.default_rng(0)
    W_dec = rng.standard_normal((d_sae, x.shape[1]), np.float32)
    W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
    threshold = np.empty(d_sae, np.float32)
    for start in range(0, d_sae, 8192):
        pre = x @ W_dec[start : start + 8192].T
        threshold[start : start + 8192] = np.maximum(pre.mean(0) + _deviations(pre, _FIRING / d_sae) * pre.std(0), 0.01)
    file = folder / "layer_2" / f"width_{d_sae}" / f"average_l0_{_FIRING}" / "params.npz"
    file.parent.mkdir(parents=True)
    zeros = {"b_enc": np.zeros(d_sae, np.float32), "b_dec": np.zeros(x.shape[1], np.float32)}
    np.savez(file, W_enc=np.ascontiguousarray(W_dec.T), W_dec=W_dec, threshold=threshold, **zeros)
    return file


def _deviations(pre: np.ndarray, share: float) -> float:
    """Standard deviations above their mean that such a share of the pre-activations pass."""
    return float(np.quantile((pre - pre.mean(0)) / pre.std(0), 1 - share))


def peak_mib() -> int:
    """Peak resident size of this program; `getrusage` would also count the one that started it."""
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(kib) / 1024)


def measure(data: Path, sae: Path, config: Config) -> dict[str, float]:
    """Reads a file in this process."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = read_texts(data).pairs
        started_s = time.perf_counter()
        dictionary = engine(sae, config)
        built_s = time.perf_counter()
        pooled = encode_pairs(pairs, dictionary, segment=Segment.RESPONSE, folder=Path(folder))
        read_s = time.perf_counter()
        nonzero = [pooled.features(pooling).nnz for pooling in POOLINGS]
        return {
            "d_sae": dictionary.d_sae,
            "pairs": len(pairs),
            "tokens": int(pooled.tokens.sum()),
            "features_per_pair": round(max(nonzero) / len(pairs), 1),
            "build_s": round(built_s - started_s, 1),
            "read_s": round(read_s - built_s, 1),
            "assemble_s": round(time.perf_counter() - read_s, 1),
            "on_disk_mib": round(sum(shard.stat().st_size for shard in pooled.shards) / 2**20),
            "cpu_s": round(time.process_time(), 1),
            "peak_mib": peak_mib(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="JSONL with prompt and response")
    parser.add_argument("--d-sae", type=int, default=262_144, help="features of the wide one")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--torch-threads", type=int, default=0, help="0 for all cores")
    parser.add_argument("--sae", type=Path, help="measure only this one, in this process")
    args = parser.parse_args()
    config = Config(device=args.device, torch_threads=args.torch_threads)
    if args.sae:
        print(json.dumps(measure(args.data, args.sae, config)))
        return
    (narrow,) = (_BUNDLED / "sae").rglob("params.npz")
    with tempfile.TemporaryDirectory() as folder:
        wide = write_wide(Path(folder), args.d_sae, residuals(args.data, engine(narrow, config)))
        for sae in (narrow, wide):
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--sae", str(sae)], check=True)


if __name__ == "__main__":
    main()
