"""Canary files of small installations: recorded by the real recipe, and installations that something is wrong with."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from conftest import House, sae_arrays
from scopewatch.app.canaries.pairs import PAIRS
from scopewatch.config import Config
from scopewatch.lifecycle.canary_record import record


def config_of(watchlist: Path, **settings: Any) -> Config:
    """Settings of a command that judges by this watchlist."""
    return Config.model_validate({"watchlist": (watchlist,), "device": "cpu", "pack_dir": "", **settings})


def recorded(watchlist: Path, file: Path, *tolerate: str, **settings: Any) -> Path:
    """A canary file of the program's own pairs."""
    asyncio.run(record(PAIRS, config_of(watchlist, **settings), tolerate)).document.write(file)  # type: ignore[arg-type]
    return file


def copied(house: House, folder: Path) -> House:
    """The same installation elsewhere, for something to be done to it."""
    shutil.copytree(house.folder, folder, ignore=shutil.ignore_patterns("*.json.part"))
    moved = {name: folder / sae.relative_to(house.folder) for name, sae in house.saes.items()}
    return House(folder, folder / "reader", moved, folder / house.watchlist.name)


def perturb_layer(house: House) -> None:
    """One matrix of one layer is off by a fiftieth."""
    file = house.reader / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("layers.1.mlp.down_proj.weight"))
    save_file(weights | {name: weights[name] * 1.02}, file, metadata={"format": "pt"})


def other_template(house: House) -> None:
    """The template writes another role."""
    for file in (house.reader / "chat_template.jinja", house.reader / "tokenizer_config.json"):
        if file.exists():
            file.write_text(file.read_text().replace("'model' if", "'bot' if").replace("model\\n", "bot\\n"))


def other_sae(house: House) -> None:
    """An SAE of the same shape, and another training run, lies where the right one was."""
    np.savez_compressed(house.saes["mid"], **sae_arrays(seed=7))


def other_threshold(house: House) -> None:
    """The features of an SAE fire from a little more on."""
    arrays = dict(np.load(house.saes["mid"]))
    np.savez_compressed(house.saes["mid"], **(arrays | {"threshold": arrays["threshold"] + np.float32(0.2)}))


WRONG: dict[str, tuple[Callable[[House], None], str]] = {
    "one layer off by a fiftieth": (perturb_layer, "the reader's weights"),
    "another chat template": (other_template, "the chat template"),
    "another SAE": (other_sae, "SAE mid"),
    "another threshold": (other_threshold, "SAE mid"),
}
"""What may be wrong, and what is said to differ then."""


def changed(file: Path, to: Path, **parts: Any) -> Path:
    """A canary file with other parts."""
    to.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | parts), encoding="utf-8")
    return to
