"""Explanations one at a time: the scored numbers, turns, deadlines, what becomes of those that fail or are left."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from conftest import engine_identity
from scopewatch.engine.looks import Looked, Removed, SegmentTop, Steps
from scopewatch.engine.worker import Worker
from scopewatch.errors import (
    ConfigError,
    DeadlineExpired,
    EngineError,
    InvalidRequest,
    NotReady,
    Overloaded,
    UnknownWatchlist,
)
from scopewatch.explain.explainer import Explainer
from scopewatch.explain.turns import Turns
from scopewatch.explanation import Explanation, Wants
from scopewatch.identity import FeatureKey, SaeIdentity
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.monitor import Monitor
from scopewatch.types import Caller, CoveredActivations, EncodedBatch, Pair, ScoreJob, Segment, TokenisedPair
from scopewatch.verdicts import Label, ScoredPair
from spine import IDENTITY, TABLE, WATCHLISTS, FakeReader, build_monitor, fire, watchlist_set

TRIAGE = Caller("triage", "clinic", 3.0)
JOB = ScoreJob(Pair("may I?", "yes, of course"), "", "r-1", caller=TRIAGE)
STEPS = 4


@dataclass
class FakeInside:
    """An engine of two whole SAEs, each of which fires its feature 9 on every token."""

    has_head: bool = False
    fails_at: int = -1
    """The step that fails."""
    steps: int = 0
    """How many steps were taken."""
    attached: int = 0
    """How many looks are under way."""
    going: threading.Event = field(default_factory=threading.Event)
    """Whether steps end."""
    saes: Iterable[str] = ("early", "late")

    def __post_init__(self) -> None:
        self.going.set()

    def read(self, tokens: TokenisedPair) -> CoveredActivations:
        return CoveredActivations(fire(tokens.ids), TABLE)

    def look(self, tokens: TokenisedPair, top: int) -> Steps[list[Looked]]:
        self.attached += 1
        try:
            for number in range(STEPS):
                self.steps += 1
                if number == self.fails_at:
                    raise EngineError("the reader fails in the middle")
                self.going.wait(30)
                yield
        finally:
            self.attached -= 1
        return [self._looked(name, len(tokens.ids), tokens) for name in self.saes]

    def remove(
        self, tokens: TokenisedPair, _features: Sequence[FeatureKey], *, seed: int | None = None
    ) -> Steps[Removed]:
        yield
        return Removed(CoveredActivations(fire(tokens.ids), TABLE), 0.25 if seed is None else 0.5)

    def _looked(self, name: str, n: int, tokens: TokenisedPair) -> Looked:
        nine, one = np.array([9]), np.ones(1, np.float32)
        tops = tuple(
            SegmentTop(segment, nine, one, one, np.array([int((tokens.segments == segment).sum())]))
            for segment in (Segment.PROMPT, Segment.RESPONSE)
        )
        everywhere = np.full((n, 1), 9, np.int32)
        return Looked(name, 64, f"layers.{name}", everywhere, np.ones((n, 1), np.float32), tops, 1.0, None, {})


@dataclass
class Parts:
    """An explainer over a monitor that pretends, a real worker, and what they are made of."""

    explainer: Explainer
    monitor: Monitor
    reader: FakeReader
    inside: FakeInside
    metrics: Metrics
    registry: CollectorRegistry
    watched: Any = IDENTITY
    labelled: list[tuple[str, list[int]]] = field(default_factory=list)

    def count(self, outcome: str) -> float:
        return self.registry.get_sample_value("scopewatch_explanations_total", {"outcome": outcome}) or 0.0


@asynccontextmanager
async def parts(*, most: int = 4, inside: FakeInside | None = None, **monitor: Any) -> AsyncIterator[Parts]:
    registry, inside = CollectorRegistry(), inside or FakeInside()
    metrics, reader = Metrics(registry), FakeReader()
    worker = Worker(lambda _: EncodedBatch([], 0.0, 0.0), lambda _: None)

    def labels(sae: SaeIdentity, features: Sequence[int]) -> Mapping[int, Label]:
        made.labelled.append((sae.name, list(features)))
        return {9: Label(f"nine of {sae.hookpoint}", "neuronpedia: m, e")}

    running = build_monitor(LocalCache(1 << 20, metrics), metrics, reader, **monitor)
    explainer = Explainer(
        read=running.read,
        running=lambda: running.watchlists,
        watched=lambda: made.watched,
        inside=inside,
        turns=Turns(worker.run, lambda: 1e9),
        labels=labels,
        metrics=metrics.explanations,
        most=most,
    )
    made = Parts(explainer, running, reader, inside, metrics, registry)
    yield made
    inside.going.set()
    worker.stop()


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the engine's thread moves it
            await asyncio.sleep(0.001)


async def test_its_numbers_are_the_scored_ones() -> None:
    """Every score, term and verdict is that of `score` on the same pair, to the last bit; and the pair is read once."""
    async with parts() as made:
        explanation = await made.explainer.explain(JOB, Wants())
        (scored,) = await made.monitor.score([JOB])

    assert isinstance(scored, ScoredPair)
    assert made.reader.asked == ["may I?yes, of course"]
    assert (explanation.request_id, explanation.verdict) == ("r-1", scored.verdict)
    assert [(one.name, one.score, one.flagged) for one in explanation.indicators] == [
        (one.name, one.score, one.flagged) for one in scored.indicators
    ]
    assert [[(t.feature, t.pooled, t.contribution) for t in one.terms] for one in explanation.indicators] == [
        [(str(f.feature), f.pooled, f.contribution) for f in one.features] for one in scored.indicators
    ]
    assert made.count("ok") == 1


async def test_it_reads_behind_others_and_for_its_own_tenant() -> None:
    """What it reads stands in a lane of a nineteenth of its caller's weight, of no caller's name, with the caller's cache."""
    async with parts() as made:
        await made.explainer.explain(JOB, Wants(delete=True))

    callers = set(made.reader.callers)
    assert {(one.tenant, one.weight, one.behind) for one in callers} == {("clinic", 3.0 / 19, True)}
    assert all(" " in one.name for one in callers)
    assert len(made.reader.asked) > 1


async def test_labels_are_asked_of_the_sae_that_was_looked_at() -> None:
    """Features that nobody watches have their label from the index, by the SAE as it runs; other watchlists' SAEs are not told."""
    async with parts() as made:
        both = await made.explainer.explain(JOB, Wants())
        late = await made.explainer.explain(replace(JOB, watchlist="second"), Wants())

    assert {sae.sae: {f.label for s in sae.segments for f in s.features} for sae in both.saes} == {
        "early": {"nine of layers.0.resid_post"},
        "late": {"nine of layers.1.resid_post"},
    }
    assert [sae.sae for sae in late.saes] == ["late"]
    assert {name for name, _ in made.labelled} == {"early", "late"}
    assert all(9 in features for _, features in made.labelled)


async def test_only_what_is_wanted_is_measured() -> None:
    """Ablation and deletion are there where they are asked for."""
    async with parts() as made:
        plain = await made.explainer.explain(JOB, Wants())
        asked = await made.explainer.explain(JOB, Wants(ablate=True, delete=True, controls=3))

    assert (plain.verdict, plain.ablations, plain.deletion) == ("flag", (), None)
    assert [(one.indicator, one.controls) for one in asked.ablations] == [("loud", 3), ("asks", 3)]
    assert asked.deletion
    assert asked.deletion.scored > 0


@pytest.mark.parametrize("top", [0, -1, 65])
async def test_more_than_is_told_is_refused_by_its_name(top: int) -> None:
    """Of `top` it is said what it may be; nothing is read."""
    async with parts() as made:
        with pytest.raises(InvalidRequest, match=r"top: is .* from 1 to 64") as refused:
            await made.explainer.explain(JOB, Wants(top=top))
    assert [one.field for one in refused.value.violations] == ["top"]
    assert (made.reader.asked, made.count("invalid_request")) == ([], 1)


async def test_a_pair_that_cannot_be_scored_is_not_explained() -> None:
    """The error is that of `score`."""
    async with parts() as made:
        with pytest.raises(UnknownWatchlist):
            await made.explainer.explain(replace(JOB, watchlist="nobody"), Wants())
        made.reader.fails["may I?yes, of course"] = EngineError("broken")
        with pytest.raises(EngineError, match="broken"):
            await made.explainer.explain(JOB, Wants())
    assert made.inside.steps == 0


async def test_so_many_wait_and_no_more_and_one_is_made_at_a_time() -> None:
    """Beyond the bound it is said when to come back; those who wait are served in the order they came."""
    async with parts(most=3) as made:
        made.inside.going.clear()
        waiting = [
            asyncio.create_task(made.explainer.explain(replace(JOB, request_id=f"{n}"), Wants())) for n in range(3)
        ]
        await until(lambda: made.inside.steps == 1)
        with pytest.raises(Overloaded, match="3 explanations wait") as refused:
            await made.explainer.explain(JOB, Wants())
        assert 0.25 <= refused.value.retry_after_s <= 10
        assert (made.inside.attached, made.inside.steps) == (1, 1)
        made.inside.going.set()
        found = [one.request_id for one in await asyncio.gather(*waiting)]
        await made.explainer.explain(JOB, Wants())

    assert found == ["0", "1", "2"]
    assert (made.count("ok"), made.count("overloaded")) == (4, 1)


async def test_none_is_made_where_the_operator_says_so() -> None:
    """The refusal names the setting."""
    async with parts(most=0) as made:
        with pytest.raises(ConfigError, match="max_explanations is 0"):
            await made.explainer.explain(JOB, Wants())
    assert made.count("config_error") == 1


@pytest.mark.parametrize("waits", [False, True], ids=["being made", "waiting"])
async def test_a_deadline_ends_it(waits: bool) -> None:
    """Whoever's time is over is told so, wherever the explanation stood; it leaves nothing behind, and the next is made."""
    async with parts() as made:
        made.inside.going.clear()
        first = asyncio.create_task(made.explainer.explain(JOB, Wants())) if waits else None
        if waits:
            await until(lambda: made.inside.attached)
        late = asyncio.create_task(made.explainer.explain(replace(JOB, deadline_s=time.monotonic() + 0.05), Wants()))
        await asyncio.sleep(0.1)
        assert waits == late.done()
        made.inside.going.set()
        with pytest.raises(DeadlineExpired, match="before the explanation was made"):
            await late
        if first:
            await first
        assert made.inside.attached == 0
        await made.explainer.explain(JOB, Wants())
    assert made.count("deadline_expired") == 1


async def test_whoever_leaves_leaves_nothing_behind() -> None:
    """A cancelled explanation takes no further step, gives its place to others, and is counted."""
    async with parts(most=1) as made:
        made.inside.going.clear()
        left = asyncio.create_task(made.explainer.explain(JOB, Wants()))
        await until(lambda: made.inside.attached)
        left.cancel()
        made.inside.going.set()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert (made.inside.attached, made.inside.steps) == (0, 1)
        await made.explainer.explain(JOB, Wants())
    assert made.count("cancelled") == 1


async def test_a_reader_that_fails_in_the_middle_is_said_to() -> None:
    """The caller gets the error, nothing stays attached, and the next explanation is made."""
    async with parts(most=1, inside=FakeInside(fails_at=2)) as made:
        with pytest.raises(EngineError, match="fails in the middle"):
            await made.explainer.explain(JOB, Wants())
        assert (made.inside.attached, made.inside.steps) == (0, 3)
        made.inside.fails_at = -1
        await made.explainer.explain(JOB, Wants())
    assert (made.count("engine_error"), made.count("ok")) == (1, 1)


@pytest.mark.parametrize("what", ["the judges", "what the engine watches"])
async def test_two_versions_of_watchlists_are_never_mixed(what: str) -> None:
    """Where watchlists are replaced, or the engine watches both sets meanwhile, no further step is taken, and the caller is
    asked to come again; with the new set it goes."""
    async with parts() as made:
        made.inside.going.clear()
        explaining = asyncio.create_task(made.explainer.explain(JOB, Wants()))
        await until(lambda: made.inside.attached)
        other = engine_identity(early=(1, 4), late=(0,))
        if what == "the judges":
            await made.monitor.replace(watchlist_set(*WATCHLISTS.values(), version=2))
        else:
            made.watched = other
        made.inside.going.set()
        with pytest.raises(NotReady, match="being replaced; ask again") as refused:
            await explaining
        assert refused.value.retry_after_s
        assert (made.inside.attached, made.inside.steps) == (0, 1)
        if what != "the judges":
            with pytest.raises(NotReady):
                await made.explainer.explain(JOB, Wants())
            await made.monitor.replace(watchlist_set(*WATCHLISTS.values(), engine=other, version=2))
        again = await made.explainer.explain(JOB, Wants())
    assert again.provenance.watchlists_version == 2


async def test_the_event_loop_is_free_while_the_document_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Putting the document together takes a while, and others are answered meanwhile."""
    made_on: list[str] = []
    real: Any = __import__("scopewatch.explain.explainer", fromlist=["explained"]).explained

    def explained(*given: Any, **named: Any) -> Explanation:
        made_on.append(threading.current_thread().name)
        document: Explanation = real(*given, **named)
        return document

    monkeypatch.setattr("scopewatch.explain.explainer.explained", explained)
    async with parts() as made:
        await made.explainer.explain(JOB, Wants())

    assert len(made_on) == 1
    assert made_on[0] not in {threading.main_thread().name, "engine"}
