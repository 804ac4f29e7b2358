"""Cards that were measured in another dtype beside: who measures them, what is refused, and what is said where they run."""

import asyncio
import difflib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from conftest import engine_identity, watchlist_of
from plain_words import WORDS
from scopewatch.app.load import load
from scopewatch.app.spine import offline
from scopewatch.app.watchlists import watchlist_set
from scopewatch.calibration.card_making import benign_card
from scopewatch.calibration.reference import reference_of
from scopewatch.calibration.split import split
from scopewatch.calibration.wanted import Wanted
from scopewatch.cli import main
from scopewatch.client import AsyncClient, pb
from scopewatch.config import Config
from scopewatch.doors.grpc.info import info_response
from scopewatch.doors.limits import Limits
from scopewatch.errors import WatchlistError
from scopewatch.explain.card_sentences import card_sentences
from scopewatch.identity import EngineIdentity
from scopewatch.lifecycle.compare import evidence_line
from scopewatch.metrics import Metrics
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import read_pairs
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.reader.linear import multiplies_bfloat16
from scopewatch.report.card_tables import card_tables
from scopewatch.report.tables import table_as_text
from scopewatch.statistics.bounds import Threshold
from scopewatch.types import Pair, ScoreJob
from scopewatch.verdicts import IndicatorScore
from scopewatch.watch.cards import AlsoMeasured, Card, DataFile, MadeWith, Measurement
from scopewatch.watch.figures_digest import figures_digest
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.splice import write_also_measured
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from servers import config, serving

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

Run = Callable[..., tuple[int, str, str]]
in_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(list(map(str, arguments)))
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return int(left.value.code or 0), told.out, told.err

    return run


# What a card says, without any reader.

FLOAT32 = engine_identity(mid=(3,))
BFLOAT16 = replace(FLOAT32, reader=replace(FLOAT32.reader, dtype="bfloat16"))
FLOAT16 = replace(FLOAT32, reader=replace(FLOAT32.reader, dtype="float16"))
ROW = Measurement(
    data="train.jsonl: the groups held out",
    n=100,
    n_positive=40,
    auroc=0.875,
    tpr=0.5,
    fpr=0.0625,
    fpr_upper=0.125,
    baselines={"bag_of_words": 0.75},
)
IN_BFLOAT16 = AlsoMeasured(
    dtype="bfloat16",
    device="cuda",
    date="2026-11-02",
    scopewatch="0.9",
    n=100,
    flags_changed=7,
    measurements=(ROW.model_copy(update={"auroc": 0.8125, "tpr": 0.375, "fpr": 0.03125, "baselines": {}}),),
    digest="0" * 64,
)
CARD = Card(
    date="2026-11-01",
    calibrated_on="train.jsonl",
    n=300,
    measurements=(ROW,),
    made_with=MadeWith(
        scopewatch="0.9",
        reader="reader",
        reader_digest=FLOAT32.reader.digest,
        dtype="float32",
        template_digest=FLOAT32.reader.template_digest,
        rendering_digest=FLOAT32.reader.rendering_digest,
        saes={"mid": FLOAT32.saes[0].digest},
    ),
)


def measured() -> Watchlist:
    """A watchlist whose indicator was calibrated in float32 and measured in bfloat16 too, and a bare one of words."""
    return watchlist_of(
        {
            "name": "one",
            "features": [{"feature": "mid/3"}],
            "card": CARD.model_copy(update={"also_measured": (IN_BFLOAT16,)}),
        }
    )


@pytest.mark.parametrize(
    ("running", "problem"),
    [
        pytest.param(FLOAT32, "", id="as it was made"),
        pytest.param(BFLOAT16, "", id="as it was measured too"),
        pytest.param(
            FLOAT16, "the card was made with dtype float32 or bfloat16 (running: float16)", id="never measured"
        ),
    ],
)
def test_a_card_speaks_for_every_dtype_that_it_was_measured_in(running: EngineIdentity, problem: str) -> None:
    """There is a warning only where it was not; another SAE is still told, whatever the dtype."""
    watchlist = measured()
    other = replace(running, saes=(replace(running.saes[0], digest="f" * 64),))

    assert problem == watchlist.card_problems(running).get("one", "")
    assert "another SAE than the running 'mid'" in watchlist.card_problems(other)["one"]
    assert (running is not FLOAT32) == bool(watchlist.card_problems(running, as_made=True))


@pytest.mark.parametrize("running", [FLOAT32, BFLOAT16, FLOAT16], ids=["float32", "bfloat16", "float16"])
def test_everywhere_the_figures_are_those_of_what_runs(running: EngineIdentity) -> None:
    """GetInfo, the metric of benign flags, explanations, pages and the terminal show the figures of the dtype that runs,
    and say that they are not those that the threshold was set with; without such, those of the card.
    """
    watchlists = watchlist_set([measured()], running, {}, version=1)
    (info,) = info_response(watchlists, Limits(1, 2, 3, 4, 5, 6, 7, 8, 9), "1").watchlists[0].indicators
    (indicator,) = watchlists.sources[0].indicators
    card = indicator.card
    assert card is not None
    sentences = " ".join(card_sentences(indicator, score_of(indicator)))
    page = "\n".join(map(table_as_text, card_tables(card)))
    line = evidence_line(card)
    metrics = Metrics()
    metrics.describe(running, watchlists.sources, {})
    counted = metrics.page("").body.decode()
    also = running is BFLOAT16

    assert (0.8125 if also else 0.875) == info.card.measurements[0].auroc
    assert (
        f'indicator_reference_flag_ratio{{indicator="one",watchlist="test"}} {0.03125 if also else 0.0625}' in counted
    )
    assert f'card_mismatches{{watchlist="test"}} {float(running is FLOAT16)}' in counted
    assert ("finds about 38" in sentences, "finds about 50" in sentences) == (also, not also)
    assert (f"AUROC {0.8125:.3f}" in line, f"AUROC {0.875:.3f}" in line) == (also, not also)
    assert ("in bfloat16 on cuda (7 of 100 flags differ)" in line) == also
    assert ("7 are flagged in only one of the two" in sentences) == also
    assert ("7 of 100 pairs are flagged in only one of the two" in page) == also
    assert "float32" == info.card.made_with.dtype
    told = pb.MeasuredIn(dtype="bfloat16", device="cuda", date="2026-11-02", scopewatch="0.9", n=100, flags_changed=7)
    assert (told if also else pb.MeasuredIn()) == info.card.measured_in
    assert also == info.card.HasField("measured_in")


def score_of(indicator: Indicator) -> IndicatorScore:
    """A score of which nothing matters."""
    return IndicatorScore(
        name=indicator.name,
        score=0.0,
        threshold=0.0,
        flagged=False,
        severity="medium",
        calibrated=True,
        card_warning="",
        probability=None,
        features=(),
        evidence=(),
    )


def test_what_was_measured_beside_does_not_tell_judgements_apart() -> None:
    """The digest of a watchlist whose cards know one dtype is what it was before cards could know two."""
    bare = replace(measured(), indicators=(measured().indicators[0].model_copy(update={"card": CARD}),))

    assert "also_measured" not in repr(CARD)
    assert compile_watchlist(bare, FLOAT32).digest == compile_watchlist(measured().as_run(FLOAT32), FLOAT32).digest
    assert compile_watchlist(bare, FLOAT32).digest != compile_watchlist(measured().as_run(BFLOAT16), FLOAT32).digest


def test_another_threshold_ends_what_was_measured_at_the_former() -> None:
    """Where benign traffic sets it anew, the card keeps what labelled pairs said of the ranking, and no other dtype."""
    traffic = DataFile(name="traffic.jsonl", sha256="a" * 64, n=100, n_positive=0)
    former = CARD.model_copy(update={"also_measured": (IN_BFLOAT16,), "beats_bag_of_words": True})
    made = former.made_with
    assert made is not None
    reference = reference_of("traffic.jsonl", [LabelledPair(Pair("", "a"), None, 1)], np.zeros(1), {})
    card = benign_card(
        *(Threshold(0.5, 1, 100, 0.05, 0.95), Wanted(), (traffic,), made),
        date="2026-11-30",
        fpr=0.01,
        tally=Tally(100),
        reference=reference,
        former=former,
    )

    assert (0.875, ()) == (card.measurements[1].auroc, card.also_measured)


# The file.

OURS = """\
version: 1
name: clinic
reader: {id: google/gemma-2-2b}   # the base model
saes: {res: {path: sae/params.npz}}
indicators:
  # The one that pages somebody.
  - name: first
    label: What pages
    features: [{feature: res/1, label: 'may, might'}]
    threshold: 0.50   # by eye
    card:
        date: "2026-11-22"   # a Sunday
        calibrated_on: some
        n: 4
        measurements: [{data: others, n: 200, n_positive: 80, tpr: 0.5}]   # more to come
        made_with: {scopewatch: 0.1.0, reader: r, reader_digest: DIGEST, dtype: float32}
    severity: high

  - name: second
    features: [{feature: res/2}]
    threshold: 1.0
    card: {date: "2026-11-22", calibrated_on: some, n: 4, measurements: [{data: others, n: 2, n_positive: 0}], made_with: {scopewatch: 0.1.0, reader: r, reader_digest: DIGEST, dtype: float32}}
""".replace("DIGEST", "a" * 64)


def figures_of(indicator: Indicator, **changes: Any) -> AlsoMeasured:
    """Figures that are sealed with the indicator's card."""
    assert indicator.card is not None
    rows = [row.model_copy(update={"tpr": 0.25} if row.tpr else {}) for row in indicator.card.measurements]
    told = {"device": "cpu", "date": "2026-11-02", "scopewatch": "0.1.0", "n": 200, "flags_changed": 3}
    figures = AlsoMeasured(**{"dtype": "bfloat16", **told, **changes}, measurements=rows, digest="0" * 64)
    return figures.model_copy(update={"digest": figures_digest(figures, indicator)})


def sealed(file: Path, text: str = OURS) -> Watchlist:
    """The watchlist written with figures in bfloat16 on its first card."""
    file.write_text(text)
    watchlist = load_watchlist(file)
    return write_also_measured(watchlist, {"first": figures_of(watchlist.indicators[0])}, file)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_only_the_figures_are_written(tmp_path: Path, line_end: str) -> None:
    """Every other line stays, with its comment; the same dtype's older figures are replaced, another's stay beside."""
    file = tmp_path / "ours.yaml"
    file.write_bytes(OURS.replace("\n", line_end).encode())
    before = load_watchlist(file)
    first = figures_of(before.indicators[0])
    written = write_also_measured(before, {"first": first}, file)
    lines = list(difflib.ndiff(OURS.splitlines(), file.read_bytes().decode().split(line_end)))
    newer, other = figures_of(before.indicators[0], flags_changed=5), figures_of(before.indicators[0], dtype="float16")
    again = write_also_measured(write_also_measured(written, {"first": newer}, file), {"first": other}, file)

    assert not [line for line in lines if line[0] == "-"]
    assert written.indicators[0].card is not None
    assert (first,) == written.indicators[0].card.also_measured
    assert again.indicators[0].card is not None
    assert (newer, other) == again.indicators[0].card.also_measured
    assert again.indicators == load_watchlist(file).indicators
    assert file.read_bytes().count(b"also_measured:") == 1


def test_a_card_on_one_line_is_written_anew(tmp_path: Path) -> None:
    """Where no line can be added, the file says the same and the comments stay."""
    file = tmp_path / "ours.yaml"
    file.write_text(OURS)
    before = load_watchlist(file)
    figures = figures_of(before.indicators[1], n=2, flags_changed=0)
    after = write_also_measured(before, {"second": figures}, file)

    assert after.indicators[1].card is not None
    assert (figures,) == after.indicators[1].card.also_measured
    assert "# The one that pages somebody." in file.read_text()


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        pytest.param("tpr: 0.25", "tpr: 0.26", id="a figure"),
        pytest.param("flags_changed: 3", "flags_changed: 1", id="the flags that changed"),
        pytest.param("threshold: 0.50", "threshold: 0.60", id="the threshold"),
        pytest.param("feature: res/1,", "feature: res/1, weight: 2.0,", id="a weight"),
        pytest.param("tpr: 0.5}", "tpr: 0.6}", id="what was measured first"),
        pytest.param("device: cpu", "device: cuda", id="where it was measured"),
    ],
)
def test_figures_that_were_edited_or_are_of_another_indicator_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, was: str, becomes: str
) -> None:
    """A threshold may be changed: the figures do not count then, as the log says with the line and the mend. What is only
    for people may be changed as well, and they count.
    """
    file = tmp_path / "ours.yaml"
    sealed(file)
    text = file.read_text()
    assert text.count(was) == 1
    file.write_text(text.replace(was, becomes))
    line = next(number for number, line in enumerate(text.splitlines(), 1) if "- dtype: bfloat16" in line)
    edited = load_watchlist(file)
    (told,) = caplog.records
    file.write_text(text.replace("What pages", "Something else").replace("severity: high", "severity: low"))
    reworded = load_watchlist(file)

    assert [(), 1] == [edited.indicators[0].card.also_measured, len(reworded.indicators[0].card.also_measured)]  # type: ignore[union-attr]
    assert told.getMessage().startswith(
        f"{file}:{line}: indicators[0].card.also_measured[0]: figures of another dtype "
    )
    assert "measure again (scopewatch watchlist measure)" in told.getMessage()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        (
            "n: 200\n            n_positive: 80",
            "n: 199\n            n_positive: 80",
            "bfloat16 was measured on other pairs",
        ),
        ("flags_changed: 3", "flags_changed: 201", "bfloat16: flags_changed is 201, of 200 pairs"),
        ("- dtype: bfloat16", "- dtype: float32", "float32 stands twice"),
        ("        made_with: {", "        note: x\n        # made_with: {", "has no other dtypes beside"),
    ],
)
def test_what_cannot_be_figures_of_the_card_is_refused(tmp_path: Path, was: str, becomes: str, message: str) -> None:
    """Other pairs, more changes than pairs, the card's own dtype again, or a card that does not say its own."""
    file = tmp_path / "ours.yaml"
    sealed(file)
    text = file.read_text()
    assert text.count(was) == 1
    file.write_text(text.replace(was, becomes))
    with pytest.raises(WatchlistError) as refused:
        load_watchlist(file)

    assert "indicators[0].card.also_measured" in str(refused.value)
    assert message in str(refused.value)


# The command, from a calibration to a server.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("measured")


@pytest.fixture(scope="module")
def train(folder: Path) -> Path:
    """Hedged sentences (1) and plain ones, two in each group, of two sources."""
    draw = np.random.default_rng(3)
    rows = []
    for line in range(200):
        subject, thing = draw.choice(WORDS, 2)
        hedged = f"Perhaps the {subject} might possibly change the {thing} of {line}, we are not sure."
        plain = f"The {subject} changed the {thing} in {line} cases, as the table shows."
        label = line // 2 % 2
        source = "papers" if line // 4 % 2 else "calls"
        rows.append(
            {"response": hedged if label else plain, "label": label, "group": f"g{line // 2}", "source": source}
        )
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def calibrated(folder: Path, train: Path) -> Path:
    """A watchlist with an indicator of features, one of words, and both together, calibrated in float32."""
    out = folder / "calibrated.yaml"
    asked = ("--max-fpr", "0.2", "--force", "--no-fragility", "--out", out)
    for made in (
        ("--indicator", "hedging", "--terms", "4", "--work-dir", folder / "work"),
        ("--indicator", "listed", "--kind", "words", "--lexicon", "hedges"),
        ("--indicator", "both", "--combine", "hedging,listed"),
    ):
        with pytest.raises(SystemExit) as left:
            main(list(map(str, ("calibrate", train, *asked, *made))))
        assert not left.value.code
    out.write_text(out.read_text().replace("indicators:\n", "indicators:   # ours\n"))
    return out


@pytest.fixture
def files(calibrated: Path, train: Path, tmp_path: Path) -> dict[str, Path]:
    """The watchlist, the file that it was calibrated on, one of other pairs, and one of the same name."""
    other, namesake = tmp_path / "other.jsonl", tmp_path / train.name
    other.write_text('{"response": "a", "label": 0}\n{"response": "b", "label": 1}\n')
    namesake.write_text(train.read_text() + '{"response": "one more", "label": 1}\n')
    watchlist = Path(shutil.copy(calibrated, tmp_path / "watchlist.yaml"))
    return {"LIST": watchlist, "TRAIN": train, "OTHER": other, "NAMESAKE": namesake}


def told(file: Path, texts: list[str], dtype: str) -> dict[str, tuple[Any, Any]]:
    """What `Score` says of responses, in a dtype: scores and flags, by the indicator."""

    async def run() -> list[Any]:
        settings = Config(dtype=dtype)
        async with offline(settings, load(settings, [load_watchlist(file)])) as spine:
            return await spine.score([ScoreJob(Pair("", text), "", "") for text in texts])

    scored = asyncio.run(run())
    by_indicator = zip(*[pair.indicators for pair in scored], strict=True)
    return {
        each[0].name: (np.array([one.score for one in each]), np.array([one.flagged for one in each]))
        for each in by_indicator
    }


@in_bfloat16
def test_one_command_makes_cards_speak_for_another_dtype(run: Run, files: dict[str, Path]) -> None:
    """From labelled pairs to a server in each dtype: the figures are scikit-learn's of what `Score` says in bfloat16 of
    the pairs that were held out, nothing else in the file changes, and no reply warns.
    """
    watchlist, before = files["LIST"], files["LIST"].read_text()
    code, out, _ = run("watchlist", "measure", watchlist, files["TRAIN"], "--dtype", "bfloat16")
    once = watchlist.read_text()
    found = {one.name: one.card for one in load_watchlist(watchlist).indicators if one.card}
    again = json.loads(run("watchlist", "measure", watchlist, files["TRAIN"], "--dtype", "bfloat16", "--json")[1])

    assert code == 0
    assert "listed: left as it is, since it counts words or characters, which are the same in every dtype" in out
    assert not [line for line in difflib.ndiff(before.splitlines(), once.splitlines()) if line[0] == "-"]
    assert once == watchlist.read_text()
    assert {"hedging", "both"} == again["also_measured"].keys()
    assert [1, 0, 1] == [len(found[name].also_measured) for name in ("hedging", "listed", "both")]
    check_figures(watchlist, files["TRAIN"], found)
    for dtype in ("float32", "bfloat16"):
        reply, info = asyncio.run(served(watchlist, dtype))
        assert [("", pb.CALIBRATION_CALIBRATED)] * 3 == [
            (one.card_warning, one.calibration) for one in reply.indicators
        ]
        assert dtype == info.reader.dtype
        for one in info.watchlists[0].indicators:
            assert found[one.name].in_dtype(dtype).measurements[0].auroc == one.card.measurements[0].auroc
            assert one.card.HasField("measured_in") == (dtype == "bfloat16" and one.name != "listed")


async def served(watchlist: Path, dtype: str) -> tuple[pb.ScoreResponse, pb.GetInfoResponse]:
    """What a server that refuses cards which do not fit says of a pair, and of itself."""
    settings = config(watchlist, dtype=dtype, strict_cards=True)
    async with serving(settings) as server, AsyncClient(server.grpc_address, timeout_s=60) as client:
        assert server.metric("scopewatch_card_mismatches") == 0
        return await client.score(response="Perhaps it may rain."), await client.info()


def check_figures(watchlist: Path, train: Path, found: dict[str, Card]) -> None:
    """Holds figures against scikit-learn's and numpy's of the scores of the held-out pairs."""
    pairs = join_copies(read_pairs(train), "response").pairs
    held = [pairs[row] for row in split(pairs, 0.5, np.ones(len(pairs), bool)).held_out]
    labels, sources = np.array([pair.label == 1 for pair in held]), np.array([pair.source for pair in held])
    texts = [pair.pair.response for pair in held]
    before, now = (told(watchlist, texts, dtype) for dtype in ("float32", "bfloat16"))
    assert not np.array_equal(before["hedging"][0], now["hedging"][0])
    for name in ("hedging", "both"):
        (also,) = found[name].also_measured
        scores, flagged = now[name]
        assert (also.dtype, also.device, also.n) == ("bfloat16", "cpu", len(held))
        assert also.flags_changed == (flagged != before[name][1]).sum()
        for row, mine in zip(
            also.measurements, (np.ones(len(held), bool), sources == "calls", sources == "papers"), strict=True
        ):
            assert row.auroc == pytest.approx(roc_auc_score(labels[mine], scores[mine]), abs=1e-4)
            assert row.tpr == pytest.approx(flagged[mine & labels].mean(), abs=1e-4)
            assert row.fpr == pytest.approx(flagged[mine & ~labels].mean(), abs=1e-4)
            assert row.baselines == {}
        figures = {name for name, value in also.measurements[0] if value is not None}
        assert figures == {name for name, value in found[name].measurements[0] if value is not None}


@in_bfloat16
@pytest.mark.parametrize(
    ("arguments", "change", "message"),
    [
        (("OTHER",), None, "other.jsonl: is not a file that a card of the watchlist was measured on; leave it out"),
        (("NAMESAKE",), None, "is not a file that a card of the watchlist was measured on"),
        (
            ("TRAIN", "--dtype", "float32"),
            None,
            "its card was made in float32, which is what runs; name another --dtype",
        ),
        (("TRAIN", "--indicator", "listed"), None, "it counts words or characters, which are the same in every dtype"),
        (("TRAIN", "--indicator", "gone"), None, "has no 'gone' (hedging, listed, both)"),
        (("TRAIN", "--held-out", "0.3"), None, "of them positive, and a share of 0.3 makes"),
        (("TRAIN",), (r"reader_digest: .{4}", "reader_digest: aaaa"), "other weights than the running"),
        (("TRAIN",), (r"auroc: \S+", "auroc: 0.3"), "the card was edited, or the indicator since it was made"),
        (("TRAIN",), (r"^  threshold: \S+", "  threshold: 99.0"), "measurements[0].tpr is"),
    ],
)
def test_what_a_card_does_not_stand_on_is_refused(
    run: Run, files: dict[str, Path], arguments: tuple[str, ...], change: tuple[str, str] | None, message: str
) -> None:
    """Other data, another reader, a card or a threshold that was edited, and what there is nothing to measure of: one
    message that says why, and the file stays.
    """
    watchlist = files["LIST"]
    if change:
        watchlist.write_text(re.sub(*change, watchlist.read_text(), count=1, flags=re.MULTILINE))
    before = watchlist.read_bytes()
    dtype = () if "--dtype" in arguments else ("--dtype", "bfloat16")
    code, _, error = run("watchlist", "measure", watchlist, *(files.get(one, one) for one in arguments), *dtype)

    assert code == 2
    assert message in error
    assert watchlist.read_bytes() == before


def test_a_machine_that_does_not_multiply_bfloat16_says_so(
    run: Run, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a pair is read; nothing is written."""
    monkeypatch.setattr("scopewatch.reader.loading.multiplies_bfloat16", lambda: False)
    before = files["LIST"].read_bytes()
    code, _, error = run("watchlist", "measure", files["LIST"], files["TRAIN"], "--dtype", "bfloat16")

    assert code == 2
    assert "dtype bfloat16: this CPU multiplies bfloat16 hundreds of times slower" in error
    assert files["LIST"].read_bytes() == before
