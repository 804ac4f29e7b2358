"""Cards: whether the evidence for a threshold speaks for what runs, and what is said where it does not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from conftest import HIDDEN, House, engine_identity, watchlist_of
from scopewatch.app.server import Server
from scopewatch.calibration.card_making import made_with
from scopewatch.client import AsyncClient, pb, request
from scopewatch.config import Config
from scopewatch.engine.build import build_engine
from scopewatch.engine.choices import choices
from scopewatch.errors import WatchlistError
from scopewatch.identity import EngineIdentity
from scopewatch.sae.pack import write_probe
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.watch.cards import Card
from servers import LocalServer, config, serving

PLAIN = engine_identity(early=(1, 4), late=(0,))
RUNNING = replace(
    PLAIN,
    reader=replace(
        PLAIN.reader,
        template_digest="c" * 64,
        rendering_digest="d" * 64,
        layer_digests=tuple(str(depth) * 64 for depth in range(4)),
    ),
)
EARLY, LATE = (sae.digest for sae in RUNNING.saes)


def made(**changes: object) -> dict[str, Any]:
    """What `RUNNING` is, as a card keeps it, with changes."""
    digests = {"early": EARLY, "late": LATE}
    return made_with(RUNNING, digests).model_dump() | changes


def card(made_with: dict[str, Any] | None) -> dict[str, Any]:
    measured = {"data": "held out", "n": 90, "n_positive": 40, "auroc": 0.75}
    told = {"date": "2026-11-01", "calibrated_on": "train.jsonl", "n": 300, "measurements": [measured]}
    return told | ({"made_with": made_with} if made_with else {})


# What fits.


@pytest.mark.parametrize(
    ("made_with", "problem"),
    [
        pytest.param(made(), "", id="all the same"),
        pytest.param(made(reader_digest="0" * 64), "", id="reader loaded less deep, no layer"),
        pytest.param(made(reader_digest="2" * 64), "", id="reader loaded less deep"),
        pytest.param(made(saes={"early": EARLY, "late": LATE, "other": "f" * 64}), "", id="more SAEs"),
        pytest.param(made(saes={"early": EARLY}), "", id="only the SAE that is read"),
        pytest.param(made(reader="models/gemma", reader_revision="", scopewatch="0.0.1"), "", id="other names"),
        pytest.param(
            made(reader="gemma-3", reader_digest="9" * 64),
            "the card was made with reader gemma-3 (other weights than the running reader)",
            id="reader",
        ),
        pytest.param(made(dtype="bfloat16"), "the card was made with dtype bfloat16 (running: float32)", id="dtype"),
        pytest.param(made(template_digest="b" * 64), "the card was made with another chat template", id="template"),
        pytest.param(made(template_digest=""), "the card was made with another chat template", id="no template"),
        pytest.param(
            made(rendering_digest="b" * 64),
            "the card was made with another rendering of the texts (tokenizer, date, tools or other settings of the "
            "reader)",
            id="rendering",
        ),
        pytest.param(
            made(saes={"early": LATE, "late": LATE}),
            "the card was made with another SAE than the running 'early'",
            id="SAE",
        ),
        pytest.param(
            made(saes={"late": LATE}), "the card was made with another SAE than the running 'early'", id="SAE unnamed"
        ),
        pytest.param(
            made(reader_digest="9" * 64, dtype="bfloat16", template_digest="", saes={}),
            "the card was made with reader reader (other weights than the running reader), dtype bfloat16 "
            "(running: float32), another chat template, another SAE than the running 'early'",
            id="all of it",
        ),
        pytest.param(None, "the card does not say with which reader and SAE it was made", id="not told"),
    ],
)
def test_a_card_says_what_it_does_not_speak_for(made_with: dict[str, Any] | None, problem: str) -> None:
    """Weights, dtype, template and the SAEs that are read decide, by digest; names and versions do not."""
    assert problem == Card.model_validate(card(made_with)).problem(["early"], RUNNING)


def test_a_combination_answers_for_the_saes_of_its_parts() -> None:
    """Its card fits when it was made with every SAE that a part reads; indicators that fit, or have no card, are absent."""
    parts = [{"indicator": "first", "weight": 1}, {"indicator": "second", "weight": 1}]
    parts += [{"signal": "mean_logprob", "weight": 1}]
    both = {"kind": "combination", "combines": parts}
    watchlist = watchlist_of(
        both | {"name": "fits", "card": card(made())},
        both | {"name": "lacks_late", "card": card(made(saes={"early": EARLY}))},
        both | {"name": "neither", "card": card(made(saes={}))},
        both | {"name": "bare"},
        {"name": "first", "features": [{"feature": "early/1"}, {"feature": "early/4"}], "card": card(made())},
        {"name": "second", "kind": "probe", "features": [{"feature": "late/0"}], "card": card(None)},
    )

    assert {
        "lacks_late": "the card was made with another SAE than the running 'late'",
        "neither": "the card was made with another SAE than the running 'early', another SAE than the running 'late'",
        "second": "the card does not say with which reader and SAE it was made",
    } == watchlist.card_problems(RUNNING)


def loaded(house: House, *names: str, head: bool = False) -> EngineIdentity:
    """What runs when a feature of each named SAE is watched."""
    features = [{"feature": f"{name}/0"} for name in names]
    watchlist = replace(
        watchlist_of({"features": features}),
        reader=ReaderSource(path=str(house.reader)),
        saes={name: SaeSource(path=str(house.saes[name])) for name in names},
    )
    return build_engine(*choices([watchlist]), Config(), head=head).identity


def test_a_card_fits_the_same_reader_loaded_deeper(house: House) -> None:
    """An indicator calibrated on the first two layers keeps its card where a third, or all and the head, run for others.

    What ran less deep than the card's reader is not known to be the same.
    """
    alone, beside, whole = loaded(house, "mid"), loaded(house, "mid", "late"), loaded(house, "mid", head=True)
    digests = {sae.name: sae.digest for sae in beside.saes}
    shallow = Card.model_validate(card(made_with(alone, digests).model_dump()))
    deep = Card.model_validate(card(made_with(beside, digests).model_dump()))

    assert [2, 3, 4] == [running.reader.layers_run for running in (alone, beside, whole)]
    assert ["", "", ""] == [shallow.problem(["mid"], running) for running in (alone, beside, whole)]
    assert "the card was made with reader reader (other weights" in deep.problem(["mid"], alone)
    assert "" == deep.problem(["mid", "late"], beside)


# What is said.

PAIR = {"prompt": "hello world, what is the answer?", "response": "It may rain tomorrow. perhaps"}
WRONG = "the card was made with dtype bfloat16 (running: float32)"


def document(house: House, probe: Path, made_with: dict[str, Any] | None = None) -> dict[str, Any]:
    """An indicator of each kind whose card says `made_with`, then one whose card says another dtype, then a bare one."""
    there = {"card": card(made_with)} if made_with else {}
    other = {"card": card(made_with | {"dtype": "bfloat16"})} if made_with else {}
    parts = [("indicator", "sparse", 2.0), ("indicator", "dense", -1.0), ("signal", "mean_logprob", 0.5)]
    entries: list[dict[str, Any]] = [
        {"name": "sparse", "features": [{"feature": "mid/3"}]} | there,
        {"name": "dense", "kind": "probe", "pooling": "mean", "features": [{"feature": "direction/0"}]} | there,
        {"name": "both", "kind": "combination", "combines": [{k: n, "weight": w} for k, n, w in parts]} | there,
        {"name": "wrong", "features": [{"feature": "late/7"}]} | other,
        {"name": "bare", "features": [{"feature": "late/7"}]},
    ]
    saes = {name: {"path": str(file)} for name, file in house.saes.items()} | {"direction": {"path": str(probe)}}
    return {
        "version": 1,
        "name": "cards",
        "reader": {"path": str(house.reader)},
        "saes": saes,
        # YAML would write what two of them share once, with an anchor.
        "indicators": [deepcopy(entry | {"threshold": 0.0}) for entry in entries],
    }


def save(folder: Path, document: dict[str, Any]) -> Path:
    file = folder / "watchlist.yaml"
    file.write_text(yaml.safe_dump(document, sort_keys=False))
    return file


def card_lines(file: Path) -> list[int]:
    return [number for number, line in enumerate(file.read_text().splitlines(), 1) if line.strip() == "card:"]


@asynccontextmanager
async def asked(watchlist: Path, **settings: object) -> AsyncIterator[tuple[LocalServer, AsyncClient]]:
    async with (
        serving(config(watchlist, **settings)) as server,
        AsyncClient(server.grpc_address, timeout_s=60) as client,
    ):
        yield server, client


def as_told(info: pb.GetInfoResponse) -> dict[str, Any]:
    """`made_with` of a card, from what a server says of itself."""
    return {
        "scopewatch": info.version,
        "reader": info.reader.name,
        "reader_revision": info.reader.revision,
        "reader_digest": info.reader.digest,
        "dtype": info.reader.dtype,
        "template_digest": info.reader.template_digest,
        "rendering_digest": info.reader.rendering_digest,
        "saes": {sae.name: sae.digest for sae in info.saes},
    }


@pytest.fixture
def probe(tmp_path: Path) -> Path:
    direction = np.random.default_rng(0).normal(size=HIDDEN).astype(np.float32)
    file = tmp_path / "direction.safetensors"
    write_probe(file, direction, np.zeros(1, np.float32), hookpoint="layers.1.resid_post", origin={})
    return file


def calibrations(indicators: Any) -> list[tuple[str, str, str]]:
    return [(one.name, pb.Calibration.Name(one.calibration), one.card_warning) for one in indicators]


async def test_every_reply_says_whether_a_card_speaks_for_what_runs(
    house: House, probe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cards made with what GetInfo tells are calibrated; one made with another dtype is a warning in every reply.

    So it is in GetInfo and, once, in the log, and a metric counts it.
    """
    async with asked(save(tmp_path, document(house, probe))) as (_, client):
        told = as_told(await client.info())
        bare = await client.score(**PAIR)
    watchlist = save(tmp_path, document(house, probe, told))
    async with asked(watchlist) as (server, client):
        info = await client.info()
        replies = [await client.score(**PAIR), await client.score(**PAIR)]
        replies += await client.score_batch([request(**PAIR), request(response="gout")])
        counts = [
            server.metric(f"scopewatch_{name}", watchlist="cards")
            for name in ("card_mismatches", "uncalibrated_indicators")
        ]
    (warned,) = [record for record in caplog.records if hasattr(record, "problem")]

    expected = [(name, "CALIBRATION_CALIBRATED", "") for name in ("sparse", "dense", "both")]
    expected += [("wrong", "CALIBRATION_UNCALIBRATED", WRONG), ("bare", "CALIBRATION_UNCALIBRATED", "")]
    assert [expected] * 4 == [calibrations(reply.indicators) for reply in replies]
    assert expected == calibrations(info.watchlists[0].indicators)
    assert [True, True, True, True, False] == [one.HasField("card") for one in info.watchlists[0].indicators]
    assert [1, 2] == counts
    assert f"{watchlist}:{card_lines(watchlist)[3]}: indicators[3].card: {WRONG}" == warned.problem
    assert [(one.name, one.score) for one in bare.indicators] == [
        (one.name, one.score) for one in replies[0].indicators
    ]


async def test_a_combination_adds_up_what_the_reply_shows(house: House, probe: Path, tmp_path: Path) -> None:
    """In a real reply a combination's parts are the other indicators' scores and the reader's log-probability."""
    async with asked(save(tmp_path, document(house, probe))) as (_, client):
        reply = await client.score(**PAIR)
    sparse, dense, both = reply.indicators[:3]
    parts = {part.feature: part for part in both.features}

    assert (sparse.score, dense.score) == (parts["sparse"].pooled, parts["dense"].pooled)
    assert parts["mean_logprob"].pooled < 0
    assert both.score == pytest.approx(2 * sparse.score - dense.score + 0.5 * parts["mean_logprob"].pooled)


async def test_strict_cards_start_only_where_every_card_fits(house: House, probe: Path, tmp_path: Path) -> None:
    """A misfit, or a card that does not say, is refused at its line with the mend; without them the server starts."""
    async with asked(save(tmp_path, document(house, probe))) as (_, client):
        told = as_told(await client.info())
    mixed = document(house, probe, told)
    del mixed["indicators"][0]["card"]["made_with"]
    watchlist = save(tmp_path, mixed)
    lines = card_lines(watchlist)
    with pytest.raises(WatchlistError) as refused:
        await Server(config(watchlist, strict_cards=True)).run()
    sound = document(house, probe, told)
    del sound["indicators"][3]
    async with asked(save(tmp_path, sound), strict_cards=True) as (_, client):
        reply = await client.score(**PAIR)

    assert [
        f"{watchlist}:{lines[0]}: indicators[0].card: the card does not say with which reader and SAE it was made",
        f"{watchlist}:{lines[3]}: indicators[3].card: {WRONG}",
        (
            "calibrate again, or switch strict_cards off to have a warning in every reply instead; where only the "
            "dtype differs, scopewatch watchlist measure measures it"
        ),
    ] == str(refused.value).splitlines()
    assert [True, True, True, False] == [one.calibration == pb.CALIBRATION_CALIBRATED for one in reply.indicators]
