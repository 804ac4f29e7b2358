"""The bundled reader, SAE and watchlist, and the demonstration that uses them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, Gemma2ForCausalLM

import scopewatch
from scopewatch.app.load import load
from scopewatch.client import Client
from scopewatch.config import BUNDLED_WATCHLIST, Config
from scopewatch.types import Pair
from scopewatch.watch.watchlist import load_watchlist
from servers import DEAD_PROXIES, NO_EXEMPTIONS, ServerProcess

PACKAGE = Path(scopewatch.__file__).parent


def test_demo_shows_the_main_job_and_ends_well() -> None:
    """`scopewatch demo --tiny` flags the guess and not the reasoned answer, marks words, hits the cache, and exits with 0.

    So it does where the way out of the machine is a proxy, even one that is not there.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SCOPEWATCH_")}
    environment = {name: value for name, value in environment.items() if name not in NO_EXEMPTIONS} | DEAD_PROXIES
    tour = subprocess.run(
        [sys.executable, "-m", "scopewatch", "demo", "--tiny"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=False,
    )
    shown = dict(re.findall(r"^— (.+)\n(FLAG|PASS)", tour.stdout, re.MULTILINE))

    assert (tour.returncode, tour.stderr) == (0, "")
    assert shown["a medical answer that guesses"] == "FLAG"
    assert shown["an empty prompt"] == "PASS"
    assert re.search(r"«[^»]+»", tour.stdout)
    assert "from the cache, scores identical: True" in tour.stdout
    assert "scopewatch_pairs_total" in tour.stdout


def test_the_server_fits_a_small_machine(bundled: ServerProcess) -> None:
    """Serving the bundled reader takes at most 1 GiB of resident memory, long pairs included."""
    with Client(bundled.grpc_address, timeout_s=60) as client:
        client.score(prompt="Tell me everything.", response="It may rain in the valley tomorrow. " * 2000)

    assert bundled.metric("process_resident_memory_bytes") <= 2**30


def test_the_package_stays_small() -> None:
    """The SAEs of the known reader are at most 40 MB, and everything else in the package together at most 20 MB."""
    files = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    of_known = [file for file in files if "smollm2-135m-instruct" in file.parts]

    assert sum(file.stat().st_size for file in of_known) <= 40e6
    assert sum(file.stat().st_size for file in set(files) - set(of_known)) <= 20e6


def test_every_bundled_indicator_has_a_card_that_names_its_rivals() -> None:
    """No bundled threshold is a guess, and each card shows the simple detectors beside the SAE."""
    indicators = {indicator.name: indicator for indicator in load_watchlist(BUNDLED_WATCHLIST).indicators}

    assert set(indicators) == {"speculation", "bias", "medical_knowledge"}
    for indicator in indicators.values():
        assert indicator.card
        for row in indicator.card.measurements:
            assert {"bag_of_words", "dense_probe", "hedge_words"} <= set(row.baselines)
            assert row.n_positive > 0


def test_watched_activations_equal_a_dense_computation_with_transformers() -> None:
    """On the bundled reader the watched columns equal the whole model hooked and the whole SAE in float64."""
    engine = load(Config()).engine
    (sae,) = engine.identity.saes
    layer = int(re.findall(r"layers\.(\d+)", sae.hookpoint)[0])
    document = load_watchlist(BUNDLED_WATCHLIST)
    with np.load(document.resolve(document.saes[sae.name].path)) as file:
        weights = {name: file[name].astype(np.float64) for name in ("W_enc", "b_enc", "threshold")}
    model = Gemma2ForCausalLM.from_pretrained(PACKAGE / "demo/reader", dtype="float32", attn_implementation="eager")
    caught: list[np.ndarray] = []
    model.model.layers[layer].register_forward_hook(lambda *call: caught.append(call[2].detach().double().numpy()[0]))
    pairs = [Pair("Why?", "It may be gout, perhaps."), Pair("", "The valve closes at 40 bar. " * 30)]
    tokens = engine.tokeniser.tokenise(pairs)
    together = engine.runner([pair.ids for pair in tokens]).activations
    watched = np.array(sae.watched)

    for pair, found in zip(tokens, together, strict=True):
        caught.clear()
        model(
            AutoTokenizer.from_pretrained(PACKAGE / "demo/reader")("x", return_tensors="pt").input_ids.new_tensor(
                [pair.ids.tolist()]
            )
        )
        pre = caught[0] @ weights["W_enc"][:, watched] + weights["b_enc"][watched]
        expected = pre * (pre > weights["threshold"][watched])
        dense = np.zeros_like(expected)
        dense[found.token, found.column] = found.value
        certain = np.abs(pre - weights["threshold"][watched]) > 1e-4
        assert np.abs(dense - expected)[certain].max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_the_reader_has_the_layout_of_a_released_model(name: str) -> None:
    """The bundled reader is a Hugging Face model directory."""
    assert (PACKAGE / "demo/reader" / name).is_file()
