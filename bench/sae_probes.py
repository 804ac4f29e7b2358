"""The sparse-probing benchmark of the literature, run with scopewatch's own calibration.

    pip install --no-deps sae-probes
    python bench/sae_probes.py --reader DIR --sae DIR --page docs/sae_probes.md

The tasks are those of Kantamneni et al., Are Sparse Autoencoders Useful? A Case Study in Sparse Probing (ICML 2025), as
the package `sae-probes` ships them. Each is calibrated on two thirds of its texts and measured on the rest, beside the
detectors that every calibration is measured beside, and the two probes of the paper. Texts are read as there: plain,
behind BOS, and of long ones the end. Tasks that are in the work folder already are not run again: a run that was
interrupted goes on, and with more `--tasks` it grows. Remove that folder where the code has changed.
"""

import argparse
import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from page import write_between
from probed_task import HELD_OUT, Settings, measured, opened
from probing_tasks import find_data, tasks
from published_probes import FEATURES
from scopewatch.errors import ScopewatchError
from scopewatch.files import atomic_write
from scopewatch.statistics.scores import Scores

COMBINATION = "sae_features"
DETECTORS = {
    COMBINATION: "features, combined by `calibrate`",
    "single_feature": "the best single feature",
    "sae_probe": f"{FEATURES} features of the last token, as in the paper",
    "dense_probe": "dense probe",
    "difference_of_means": "difference of means",
    "last_token": "logistic regression on the last token, as in the paper",
    "bag_of_words": "bag of words",
    "response_length": "length of the text",
}
"""The detectors in the table; the file of results holds all."""
PUBLISHED = {"single_feature": 0.774, "sae_probe": 0.921, "last_token": 0.941}
"""Mean AUROCs of Gemma-2-9B at layer 20, its SAE of 131,072 features: see docs/sae_probes.md."""
CHANCE = 0.5
RESULTS = Path(__file__).parent / "results" / "sae_probes.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", type=Path, required=True, help="directory")
    parser.add_argument("--sae", type=Path, required=True, help="folder or weights file")
    parser.add_argument("--hookpoint", default="", help="where the SAE reads; without it as its files or folders say")
    parser.add_argument("--name", help="of the run, in table and results; without it that of the reader's directory")
    parser.add_argument("--data", type=Path, help="the folder sae_probes/data; without it the installed package's")
    parser.add_argument("--tasks", type=int, default=113, help="the most tasks")
    parser.add_argument("--rows", type=int, default=256, help="the most texts of a task")
    parser.add_argument("--max-tokens", type=int, default=64, help="the most tokens of a text, its last ones")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--work-dir", type=Path, default=Path("build/sae_probes"))
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of results, in which this run's are replaced")
    parser.add_argument("--page", type=Path, help="Markdown file, in which the table between two marks is replaced")
    args = parser.parse_args()
    data = find_data(args.data)
    settings = Settings(data, args.reader, args.sae, args.hookpoint, args.rows, args.max_tokens)
    try:
        run = run_all(tasks(data)[: args.tasks], settings, args.work_dir, args.workers)
    except ScopewatchError as error:
        raise SystemExit(str(error)) from None
    runs = json.loads(args.out.read_text()) if args.out.exists() else {}
    runs[args.name or args.reader.resolve().name] = run
    args.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    print(table(runs))
    if args.page:
        write_between(args.page, "bench/sae_probes.py", table(runs))


def run_all(names: list[str], settings: Settings, work_dir: Path, workers: int) -> dict[str, Any]:
    """What is kept of a run: what was run, and what each task gave."""
    dictionary, _ = opened(settings)
    sae = dictionary.identity.saes[0]
    run: dict[str, Any] = {"sae": sae.digest, "hookpoint": sae.hookpoint, "features": sae.d_sae}
    run |= {"rows": settings.rows, "max_tokens": settings.max_tokens, "held_out": HELD_OUT}
    key = hashlib.sha256(json.dumps([dictionary.digest, run]).encode()).hexdigest()
    folder = work_dir / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.json" for name in names}
    missing = [name for name in names if not files[name].exists()]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        coming = {pool.submit(keep, name, settings, files[name]): name for name in missing}
        for number, done in enumerate(as_completed(coming), 1):
            done.result()
            print(f"{number}/{len(missing)} {coming[done]}", flush=True)
    return run | {"tasks": {name: json.loads(files[name].read_text()) for name in sorted(names)}}


def keep(task: str, settings: Settings, file: Path) -> None:
    """Measures a task and writes what it gave."""
    found = measured(task, settings)
    with atomic_write(file) as part:
        part.write_text(json.dumps(found))


def table(runs: dict[str, Any]) -> str:
    """For each run the mean AUROC of each detector, and the lead of the combined features over it.

    What gave no scores, because `calibrate` found no signal, counts as chance.
    """
    lines = [
        ["detector"],
        ["---"],
        *([shown] for shown in DETECTORS.values()),
        ["tasks in which the features gave no signal"],
    ]
    for name, run in runs.items():
        own = aurocs(run, COMBINATION)
        lines[0] += [f"{name}, {run['hookpoint']}, {run['features']:,} features, {len(own)} tasks", "lead over it"]
        lines[1] += ["---", "---"]
        for line, detector in zip(lines[2:-1], DETECTORS, strict=True):
            other = aurocs(run, detector)
            line += [interval(other), interval(own - other, "+.3f") if detector != COMBINATION else ""]
        lines[-1] += [str(sum(bool(task["refused"]) for task in run["tasks"].values())), ""]
    published = [f"{PUBLISHED[detector]:.3f}" if detector in PUBLISHED else "" for detector in DETECTORS]
    columns = ["Gemma-2-9B, published", "---", *published, ""]
    return "\n".join("| " + " | ".join([*line, last]) + " |" for line, last in zip(lines, columns, strict=True))


def aurocs(run: dict[str, Any], detector: str) -> Scores:
    """A detector's AUROC on each task, shape (n_tasks,)."""
    return np.array([task["auroc"].get(detector, CHANCE) for task in run["tasks"].values()])


def interval(values: Scores, form: str = ".3f") -> str:
    """The mean over tasks, with its 95 % percentile bootstrap over tasks."""
    found = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    low, high = found.confidence_interval
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    main()
