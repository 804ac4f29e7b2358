"""The spine: tokenise, look up, encode what is missing, score; and what it counts."""

import asyncio
import logging
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from conftest import engine_identity, judgement, need, scored_pair, watchlist_of
from scopewatch.errors import DeadlineExpired, EngineError, FieldViolation, InvalidRequest, Overloaded, UnknownWatchlist
from scopewatch.events import PairScored
from scopewatch.identity import FeatureKey, FeatureTable
from scopewatch.metrics import Metrics
from scopewatch.pipeline.batcher import Encoded
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.compiled import compile_watchlist
from scopewatch.pipeline.judgements import Judgements
from scopewatch.pipeline.monitor import Monitor
from scopewatch.pipeline.scoring import judge
from scopewatch.types import ANYONE, Caller, CoveredActivations, Pair, ScoreJob, Turn
from scopewatch.verdicts import IndicatorScore, ScoredPair, Timings, Verdict
from scopewatch.watch.indicators import PROBE
from spine import IDENTITY, TABLE, VALUES, WATCHLISTS, FakeReader, build_monitor, fire, read, watchlist_set

TALK = Pair("may I?", "yes, of course", (Turn("user", "hi"), Turn("assistant", "hello you")))
OTHER = Pair("why", "because")


def job(pair: Pair = TALK, watchlist: str = "", **changes: object) -> ScoreJob:
    return ScoreJob(pair, watchlist, "id", include_evidence=True, **changes)


@pytest.fixture
def reader() -> FakeReader:
    return FakeReader()


@pytest.fixture
def cache(metrics: Metrics) -> LocalCache:
    return LocalCache(1 << 20, metrics)


@pytest.fixture(params=[0, 1 << 20], ids=["forgetful", "remembering"])
def judgements(request: pytest.FixtureRequest) -> Judgements | None:
    """Every promise holds whether judgements are remembered or not."""
    return Judgements(request.param) if request.param else None


@pytest.fixture
def monitor(cache: LocalCache, metrics: Metrics, reader: FakeReader, judgements: Judgements | None) -> Monitor:
    return build_monitor(cache, metrics, reader, judgements=judgements)


async def score(monitor: Monitor, *jobs: ScoreJob) -> list[ScoredPair]:
    outcomes = await monitor.score(jobs)
    assert [type(outcome) for outcome in outcomes] == [ScoredPair] * len(jobs)
    return outcomes  # type: ignore[return-value]


class TestScoring:
    @pytest.mark.parametrize("name", ["first", "second"])
    async def test_a_pair_gets_the_judgement_of_its_activations(self, monitor: Monitor, name: str) -> None:
        """The verdict is that of the watchlist asked for, on the tokens as read and what fired on them."""
        (found,) = await score(monitor, job(watchlist=name))
        tokens = read(TALK)
        fired = CoveredActivations(fire(tokens.ids), TABLE)
        expected = judge(compile_watchlist(WATCHLISTS[name], IDENTITY), [tokens], [fired], max_evidence=8)
        assert (found.verdict, found.indicators) == (expected.verdict, expected.indicators)
        assert (found.watchlist, found.coverage) == (name, tokens.coverage)

    async def test_without_a_name_the_first_watchlist_is_meant(self, monitor: Monitor) -> None:
        """An empty name stands for the default watchlist."""
        (found,) = await score(monitor, job(watchlist=""))
        assert found.watchlist == "first"

    async def test_evidence_is_given_to_those_who_ask(self, monitor: Monitor) -> None:
        """Without being asked for, evidence is left out, and nothing else is."""
        with_spans, without = await score(monitor, job(), replace(job(), include_evidence=False))
        assert all(0 < len(indicator.evidence) <= 8 for indicator in with_spans.indicators)
        assert without.indicators == tuple(replace(part, evidence=()) for part in with_spans.indicators)

    async def test_a_hit_and_a_miss_are_scored_alike(self, monitor: Monitor, reader: FakeReader) -> None:
        """The second time a pair comes the reader is not asked, and only `cached` and the times differ."""
        (miss,) = await score(monitor, job())
        (hit,) = await score(monitor, job())
        assert (miss.cached, hit.cached, len(reader.asked)) == (False, True, 1)
        assert (hit.verdict, hit.indicators, hit.coverage) == (miss.verdict, miss.indicators, miss.coverage)

    async def test_a_pair_says_what_is_ahead_of_it_in_its_call(self, monitor: Monitor, reader: FakeReader) -> None:
        """The engine's queue learns how far back in its own call a pair stands; each call begins anew."""
        jobs = [replace(job(), pair=Pair("", response)) for response in ("one", "three", "seven!!")]
        await score(monitor, *jobs)
        await score(monitor, replace(job(), pair=Pair("", "alone")))
        assert reader.ahead == [0, 1 + 3, 1 + 3 + 1 + 5, 0]

    async def test_one_reading_serves_every_watchlist(self, monitor: Monitor, reader: FakeReader) -> None:
        """Activations are cached, not verdicts: another watchlist needs no second pass of the reader."""
        await score(monitor, job(watchlist="first"))
        (found,) = await score(monitor, job(watchlist="second"))
        assert (found.cached, found.watchlist, len(reader.asked)) == (True, "second", 1)

    async def test_ends_of_sentences_are_found_without_another_reading(
        self, cache: LocalCache, metrics: Metrics, reader: FakeReader
    ) -> None:
        """What is cached are the activations of every token, so that any pooling of them needs no second reading."""
        feature = {"feature": "early/4"}
        poolings = ("max", "last", {"kind": "sentence_end", "over": "mean"})
        watchlists = [
            watchlist_of({"name": "one", "pooling": pooling, "features": [feature]}, name=f"w{number}")
            for number, pooling in enumerate(poolings)
        ]
        monitor = build_monitor(cache, metrics, reader, watchlists=watchlist_set(*watchlists), listeners=[])
        pair = Pair("why", "It may. Or not? Perhaps")
        found = [(await score(monitor, job(pair, one.name)))[0] for one in watchlists]

        fired = fire(read(pair).ids)
        column = IDENTITY.features.index(FeatureKey("early", 4))
        value = dict(zip(fired.token[fired.column == column], fired.value[fired.column == column], strict=True))
        place = 1 + len(pair.prompt)
        ends = [value.get(place + at, 0.0) for at in (6, 14, 22)]
        assert [ends[-1], pytest.approx(np.mean(ends))] == [one.indicators[0].score for one in found[1:]]
        assert [False, True, True] == [one.cached for one in found]
        assert 1 == len(reader.asked)

    async def test_times_of_stages_that_did_not_run_are_zero(self, monitor: Monitor) -> None:
        """A miss shows what the engine said it took; a hit shows no engine time."""
        (miss,) = await score(monitor, job())
        (hit,) = await score(monitor, job())
        assert [(t.queue_s, t.forward_s, t.encode_s) for t in (miss.timings, hit.timings)] == [
            (0.25, 0.5, 0.125),
            (0.0, 0.0, 0.0),
        ]
        parts = hit.timings.tokenise_s + hit.timings.cache_s + hit.timings.score_s
        assert 0 < parts <= hit.timings.total_s

    async def test_the_deadline_travels_with_the_pair(self, monitor: Monitor, reader: FakeReader) -> None:
        """Each pair waits no longer than its own caller, and in that caller's lane."""
        caller = Caller("somebody", weight=2.0)
        await score(monitor, job(TALK, deadline_s=5.0, caller=caller), job(OTHER))
        assert reader.deadlines == [5.0, None]
        assert reader.callers == [caller, ANYONE]

    async def test_no_pairs_no_outcomes(self, monitor: Monitor) -> None:
        """An empty batch is answered with nothing."""
        assert await monitor.score([]) == []


class TestManyPairs:
    async def test_a_bad_pair_fails_alone(self, monitor: Monitor, reader: FakeReader) -> None:
        """In one batch every pair gets its own outcome, in order, whatever happens to its neighbours."""
        invalid = InvalidRequest(FieldViolation("history", "no"))
        overloaded = Overloaded("full", retry_after_s=1.0)
        reader.refuses["refused"] = invalid
        reader.fails |= {"late": DeadlineExpired("late"), "full": overloaded, "odd": ValueError("canary")}
        texts = ["good", "refused", "late", "fine", "full", "odd", "good"]
        jobs = [job(Pair("", text)) for text in texts]
        jobs.insert(3, job(watchlist="nobody"))

        outcomes = await monitor.score(jobs)

        assert [type(outcome) for outcome in outcomes] == [
            ScoredPair,
            InvalidRequest,
            DeadlineExpired,
            UnknownWatchlist,
            ScoredPair,
            Overloaded,
            EngineError,
            ScoredPair,
        ]
        assert (outcomes[1], outcomes[5]) == (invalid, overloaded)
        assert str(outcomes[6]) == "the reader failed on this pair"
        alone = {text: (await score(monitor, job(Pair("", text))))[0].indicators for text in ("good", "fine")}
        assert [outcomes[i].indicators for i in (0, 4, 7)] == [alone["good"], alone["fine"], alone["good"]]

    async def test_an_unknown_watchlist_names_the_known_ones(self, monitor: Monitor, reader: FakeReader) -> None:
        """A wrong name is the caller's mistake, in the field `watchlist`, and the reader is not asked."""
        (outcome,) = await monitor.score([job(watchlist="frist")])
        assert isinstance(outcome, UnknownWatchlist)
        assert outcome.violations == (
            FieldViolation("watchlist", "no watchlist of this name is loaded; there are: first, second"),
        )
        assert reader.asked == []

    async def test_a_failure_is_not_cached(self, monitor: Monitor, reader: FakeReader) -> None:
        """A pair that failed once is read again when it comes back."""
        reader.fails["flaky"] = EngineError("once")
        assert isinstance((await monitor.score([job(Pair("", "flaky"))]))[0], EngineError)
        reader.fails.clear()
        (found,) = await score(monitor, job(Pair("", "flaky")))
        assert found.cached is False

    async def test_hits_and_misses_may_share_a_batch(self, monitor: Monitor, reader: FakeReader) -> None:
        """Only what is missing goes to the reader, and each answer goes where it belongs."""
        texts = [f"text {number}" for number in range(6)]
        first = await score(monitor, *(job(Pair("", text)) for text in texts[::2]))
        mixed = await score(monitor, *(job(Pair("", text)) for text in texts))
        assert [outcome.cached for outcome in mixed] == [True, False] * 3
        assert reader.asked == texts[::2] + texts[1::2]
        assert [outcome.indicators for outcome in mixed[::2]] == [outcome.indicators for outcome in first]

    async def test_a_caller_who_leaves_takes_their_pairs_along(
        self, cache: LocalCache, metrics: Metrics, reader: FakeReader, judgements: Judgements | None
    ) -> None:
        """Cancelling a request cancels its waits for the engine."""
        left = asyncio.Event()

        async def wait_for_ever(*_: object) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                left.set()

        monitor = build_monitor(cache, metrics, reader, submit=wait_for_ever, judgements=judgements)
        task = asyncio.create_task(monitor.score([job()]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert left.is_set()


class Onlooker:
    """Counts turns of the event loop, and notes in which of them a pair was judged."""

    def __init__(self) -> None:
        self.turn = 0
        self.judged_in: list[int] = []
        self.tenth = asyncio.Event()
        """Set when ten pairs are judged."""

    async def count(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)

    def put(self, *_: object) -> None:
        """Stands where judgements would be remembered: every one that is made comes by here."""
        self.judged_in.append(self.turn)
        if len(self.judged_in) == 10:
            self.tenth.set()

    def name(self, *_: object) -> bytes:
        return b""

    def get(self, _: bytes) -> None:
        return None


MANY = [job(Pair("", f"text {number}")) for number in range(40)]


class TestTakingTurns:
    @pytest.fixture
    def onlooker(self) -> Onlooker:
        return Onlooker()

    @pytest.fixture(params=["computed", "cached"])
    async def watched(
        self,
        request: pytest.FixtureRequest,
        onlooker: Onlooker,
        cache: LocalCache,
        metrics: Metrics,
        reader: FakeReader,
    ) -> Monitor:
        """A monitor that judges everything anew, of activations that are computed or cached."""
        if request.param == "cached":
            await build_monitor(cache, metrics, reader).score(MANY)
        return build_monitor(cache, metrics, reader, judgements=onlooker)

    async def test_the_loop_turns_between_two_pairs_of_a_call(self, watched: Monitor, onlooker: Onlooker) -> None:
        """No two pairs of a call are judged in one turn of the event loop, so that others get in between."""
        counting = asyncio.create_task(onlooker.count())
        await score(watched, *MANY)
        counting.cancel()
        assert len(set(onlooker.judged_in)) == len(onlooker.judged_in) == len(MANY)

    async def test_a_lone_pair_is_answered_in_the_middle_of_a_large_call(
        self, watched: Monitor, onlooker: Onlooker
    ) -> None:
        """A pair that comes while a large call is judged does not wait for all of that call."""

        async def lone() -> int:
            await onlooker.tenth.wait()
            await score(watched, job(OTHER))
            return len(onlooker.judged_in)

        _, judged = await asyncio.gather(score(watched, *MANY), lone())
        assert 10 < judged < len(MANY)

    async def test_a_pair_is_judged_while_the_engine_reads_the_next(
        self, cache: LocalCache, metrics: Metrics, reader: FakeReader
    ) -> None:
        """The judgement of a pair waits for its own activations, not for those of the pairs behind it."""
        judged = asyncio.Event()

        async def submit(ids: np.ndarray, deadline_s: float | None, ahead_tokens: int, caller: Caller) -> Encoded:
            if ahead_tokens:
                await judged.wait()
            return await reader.submit(ids, deadline_s, ahead_tokens, caller)

        onlooker = Onlooker()
        onlooker.put = lambda *_: judged.set()
        async with asyncio.timeout(30):
            await score(build_monitor(cache, metrics, reader, judgements=onlooker, submit=submit), *MANY[:2])


class TestCorruptValues:
    @pytest.mark.parametrize("kind", ["garbage", "empty", "other pair", "flipped"])
    async def test_a_corrupt_value_is_computed_again(
        self, monitor: Monitor, cache: LocalCache, reader: FakeReader, registry: CollectorRegistry, kind: str
    ) -> None:
        """A value that was not written for this pair is counted, replaced, and never scored."""
        (fresh,) = await score(monitor, job())
        key, other = VALUES.key(read(TALK), ""), VALUES.key(read(OTHER), "")
        (good,) = await cache.get_many([key])
        assert good is not None
        wrong = {
            "garbage": b"garbage" * 30,
            "empty": b"",
            "other pair": VALUES.dump(other, CoveredActivations(fire(read(OTHER).ids), TABLE)),
            "flipped": good[:-1] + bytes([good[-1] ^ 1]),
        }[kind]
        cache.put_many({key: wrong})

        (again,) = await score(monitor, job())
        (third,) = await score(monitor, job())

        assert (again.cached, third.cached, len(reader.asked)) == (False, True, 2)
        assert again.indicators == third.indicators == fresh.indicators
        assert registry.get_sample_value("scopewatch_cache_requests_total", {"result": "corrupt"}) == 1


def exposition(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


class TestMetrics:
    @pytest.fixture
    async def counted(self, monitor: Monitor, reader: FakeReader) -> None:
        """Two verdicts on one pair, one on another, four failures, one truncation."""
        reader.fails |= {"late": DeadlineExpired("late"), "dead": EngineError("dead")}
        reader.refuses["bad"] = InvalidRequest(FieldViolation("history", "no"))
        await monitor.score([job(), job(OTHER, "second")])
        await monitor.score([job(), *(job(Pair("", text)) for text in ("late", "dead", "bad")), job(watchlist="x")])

    @pytest.mark.parametrize(
        ("name", "labels", "expected"),
        [
            ("pairs_total", {"watchlist": "first", "verdict": "flag"}, 2),
            ("pairs_total", {"watchlist": "first", "verdict": "pass"}, 0),
            ("pairs_total", {"watchlist": "second", "verdict": "pass"}, 1),
            ("failed_pairs_total", {"watchlist": "first", "reason": "deadline_expired"}, 1),
            ("failed_pairs_total", {"watchlist": "first", "reason": "engine_error"}, 1),
            ("failed_pairs_total", {"watchlist": "first", "reason": "invalid_request"}, 1),
            ("failed_pairs_total", {"watchlist": "unknown", "reason": "unknown_watchlist"}, 1),
            ("received_pairs_total", {"watchlist": "first"}, 5),
            ("pairs_in_flight", {"watchlist": "first"}, 0),
            ("cache_requests_total", {"result": "hit"}, 1),
            ("cache_requests_total", {"result": "miss"}, 4),
            ("cache_writes_total", {"result": "ok"}, 2),
            ("tokens_total", {"segment": "prompt"}, 2 * len("may I?") + len("why")),
            ("tokens_total", {"segment": "response"}, 2 * len("yes, of course") + len("because")),
            ("tokens_total", {"segment": "history"}, 2 * len("hihello you")),
            ("tokens_total", {"segment": "template"}, 3),
            ("indicator_score_count", {"watchlist": "first", "indicator": "loud"}, 2),
            ("indicator_flags_total", {"watchlist": "first", "indicator": "loud", "severity": "medium"}, 2),
            ("indicator_flags_total", {"watchlist": "second", "indicator": "quiet", "severity": "medium"}, 0),
            ("stage_seconds_count", {"stage": "total"}, 3),
            ("stage_seconds_count", {"stage": "forward"}, 2),
            ("stage_seconds_sum", {"stage": "forward"}, 1.0),
            ("feature_fired_pairs_total", {"feature": "early/1"}, 3),
            ("uncalibrated_indicators", {"watchlist": "first"}, 3),
        ],
        ids=str,
    )
    @pytest.mark.usefixtures("counted")
    def test_everything_is_counted(
        self, registry: CollectorRegistry, name: str, labels: dict[str, str], expected: float
    ) -> None:
        """Pairs, verdicts, failures by reason, tokens, cache results, indicators, stages: each shows its count."""
        assert registry.get_sample_value(f"scopewatch_{name}", labels) == expected

    async def test_truncation_and_skips_are_counted(
        self, cache: LocalCache, metrics: Metrics, reader: FakeReader, registry: CollectorRegistry
    ) -> None:
        """A pair that was cut, and an indicator that had nothing to read, can alert."""

        async def cut(pairs: list[Pair], _cleanings: object) -> list[object]:
            whole = [read(pair) for pair in pairs]
            return [(replace(t, coverage=replace(t.coverage, prompt_tokens_dropped=3)),) for t in whole]

        cutting = build_monitor(cache, metrics, reader, tokenise=cut)
        (found,) = await score(cutting, job(OTHER))
        skipped = {"watchlist": "first", "indicator": "past", "reason": "empty_segment"}
        names = ["scopewatch_truncated_pairs_total", "scopewatch_skipped_indicators_total"]
        counts = [registry.get_sample_value(*row) for row in zip(names, [{"segment": "prompt"}, skipped], strict=True)]
        assert (counts, found.coverage.truncated) == ([1, 1], True)

    async def test_a_feature_counts_once_a_pair_and_not_on_template_tokens(
        self, monitor: Monitor, registry: CollectorRegistry
    ) -> None:
        """A feature's series counts the pairs in which it fired on text; token 2, the template, fires late/0."""
        await score(monitor, job(Pair("", "llll"), "second"))
        fired = [
            registry.get_sample_value("scopewatch_feature_fired_pairs_total", {"feature": str(feature)})
            for feature in IDENTITY.features
        ]
        expected = {ord("l") % 3} | ({(ord("l") + 1) % 3} if ord("l") % 2 else set())
        assert fired == [float(column in expected) for column in range(3)]

    @pytest.mark.parametrize(
        ("most", "labels"),
        [
            (0, {"other": 1}),
            (1, {"early/1": 1, "other": 1}),
            (2, {"early/1": 1, "early/4": 1, "other": 1}),
            (3, {"early/1": 1, "early/4": 1, "late/0": 1}),
        ],
    )
    async def test_features_beyond_the_bound_share_a_series(
        self, cache: LocalCache, reader: FakeReader, most: int, labels: dict[str, int]
    ) -> None:
        """However many features are watched, at most `max_feature_series` and one have series; a pair counts once."""
        registry = CollectorRegistry()
        monitor = build_monitor(cache, Metrics(registry, max_feature_series=most), reader)
        await score(monitor, job())
        (family,) = [f for f in registry.collect() if f.name == "scopewatch_feature_fired_pairs"]
        found = {s.labels["feature"]: s.value for s in family.samples if s.name.endswith("_total")}
        assert found == labels

    def test_what_has_a_value_everywhere_has_no_series(self) -> None:
        """Probes and the reader's head are left out of the features that fire, wherever their columns stand."""
        registry = CollectorRegistry()
        metrics = Metrics(registry, max_feature_series=1)
        own = engine_identity(early=(1, 4), late=(0,), direction=(0,))
        saes = [replace(sae, architecture=PROBE) if sae.name == "direction" else sae for sae in own.saes]
        ordered = tuple(sorted(saes, key=lambda sae: sae.name))
        identity = replace(own, saes=ordered, head=True)
        metrics.describe(identity, [], {})
        made = replace(
            judgement(Verdict.PASS, (), read(OTHER).coverage),
            fired=np.arange(len(identity.features)),
            table=FeatureTable(identity.feature_ids),
        )
        metrics.pairs_scored([PairScored(job(OTHER), ScoredPair(made, Timings(), cached=False))])
        (family,) = [f for f in registry.collect() if f.name == "scopewatch_feature_fired_pairs"]
        found = {s.labels["feature"]: s.value for s in family.samples if s.name.endswith("_total")}
        assert found == {str(next(feature for feature in identity.features if feature.sae == "early")): 1, "other": 1}

    @pytest.mark.usefixtures("counted")
    def test_the_exposition_can_be_parsed(self, registry: CollectorRegistry) -> None:
        """Prometheus' own parser reads every family, each name begins as agreed and has a help text."""
        families = list(text_string_to_metric_families(exposition(registry)))
        standard = ("process_", "python_")
        names = [family.name for family in families if not family.name.startswith(standard)]
        assert [n for n in names if not n.startswith(("scopewatch_", "grpc_server_"))] == []
        assert [family.name for family in families if not family.documentation] == []
        assert len(names) == len(set(names)) > 20

    @pytest.mark.system
    @pytest.mark.usefixtures("counted")
    def test_promtool_has_no_complaint(self, registry: CollectorRegistry, metrics: Metrics) -> None:
        """Names, units and help texts pass Prometheus' linter."""
        need("promtool")
        metrics.rpc_started("unary", "s", "m")
        metrics.rpc_handled("unary", "s", "m", "OK", 0.1)
        metrics.batch_encoded(2, 30, 40)
        metrics.certificate_read(1e9)
        metrics.certificate_refused()
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=exposition(registry), text=True, capture_output=True, check=False
        )
        assert (checked.stdout + checked.stderr, checked.returncode) == ("", 0)

    async def test_nothing_of_a_request_is_in_metrics_or_logs(
        self, monitor: Monitor, reader: FakeReader, registry: CollectorRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Text, roles, ids, labels and unknown names never reach an exposition or a log line."""
        caplog.set_level(logging.DEBUG)
        pair = Pair("canary-prompt", "canary-response", (Turn("canary-role", "canary-history"),))
        labels = {"canary-key": "canary-value"}
        base = ScoreJob(pair, "", "canary-id", include_evidence=True, labels=labels)
        reader.fails["canary-failing"] = EngineError("the reader failed")
        reader.refuses["canary-refused"] = InvalidRequest(FieldViolation("response", "canary-description"))
        jobs = [base, base, replace(base, watchlist="canary-watchlist")]
        jobs += [replace(base, pair=Pair("", text)) for text in ("canary-failing", "canary-refused")]
        await monitor.score(jobs)
        await monitor.score(jobs)
        logged = caplog.text + "".join(str(vars(record)) for record in caplog.records)
        assert "canary-" not in exposition(registry) + logged

    def test_series_start_at_zero(self, monitor: Monitor, registry: CollectorRegistry) -> None:
        """Before the first pair every expected series is there at 0, so that a rate has a first point."""
        wanted = [
            ("pairs_total", {"watchlist": "first", "verdict": Verdict.FLAG}),
            ("indicator_flags_total", {"watchlist": "first", "indicator": "loud", "severity": "medium"}),
            ("indicator_score_count", {"watchlist": "second", "indicator": "quiet"}),
            ("feature_fired_pairs_total", {"feature": "late/0"}),
        ]
        assert [registry.get_sample_value(f"scopewatch_{name}", labels) for name, labels in wanted] == [0] * 4


def test_what_runs_is_described(metrics: Metrics, registry: CollectorRegistry) -> None:
    """Info series name versions, the reader, each SAE and each watchlist with short digests.

    Indicators without a card, or with one of another reader, are counted as uncalibrated; the latter apart, too.
    """
    made_with = {
        "scopewatch": "1.2",
        "reader": "reader",
        "reader_digest": IDENTITY.reader.digest,
        "dtype": IDENTITY.reader.dtype,
        "saes": {"early": IDENTITY.saes[0].digest},
    }
    card = {
        "date": "2026-11-01",
        "calibrated_on": "dev",
        "n": 9,
        "measurements": [{"data": "test", "n": 3, "n_positive": 1, "auroc": 0.5}],
        "made_with": made_with,
    }
    other = card | {"made_with": made_with | {"reader_digest": "e" * 64}}
    features = {"features": [{"feature": "early/1"}]}
    watchlist = watchlist_of(features, features, features | {"card": card}, features | {"card": other})
    metrics.describe(IDENTITY, [watchlist], {"version": "1.2"})
    reader = {
        "reader": "reader",
        "revision": "main",
        "digest": "d" * 12,
        "dtype": "float32",
        "device": "cpu",
        "attention": "eager",
    }
    late = {"sae": "late", "hookpoint": "layers.1.resid_post", "architecture": "jumprelu", "digest": "1" * 12}
    wanted = [
        ("build_info", {"version": "1.2"}, 1),
        ("reader_info", reader, 1),
        ("sae_info", late, 1),
        ("watchlist_info", {"watchlist": "test", "digest": "0" * 12}, 1),
        ("uncalibrated_indicators", {"watchlist": "test"}, 3),
        ("card_mismatches", {"watchlist": "test"}, 1),
    ]
    for name, labels, value in wanted:
        assert (name, value) == (name, registry.get_sample_value(f"scopewatch_{name}", labels))


@given(st.lists(st.one_of(st.sampled_from([-100, -0.5, 0, 0.1, 1000, 1000.1]), st.floats(-2000, 2000))))
def test_score_histograms_equal_those_of_the_client_library(scores: list[float]) -> None:
    """Buckets, count and sum of indicator scores are what prometheus_client's own histogram shows."""
    registry, theirs = CollectorRegistry(), CollectorRegistry()
    metrics = Metrics(registry)
    metrics.describe(IDENTITY, WATCHLISTS.values(), {"version": "1"})
    name, labels = "scopewatch_indicator_score", {"watchlist": "second", "indicator": "quiet"}
    bounds = sorted(
        float(sample.labels["le"])
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{name}_bucket" and labels.items() <= sample.labels.items()
    )
    histogram = Histogram(name, "Indicator scores.", list(labels), buckets=bounds, registry=theirs)
    series = histogram.labels(**labels)
    coverage = read(OTHER).coverage
    for value in scores:
        series.observe(value)
        part = IndicatorScore("quiet", value, 1e9, flagged=False, severity="low", calibrated=False)
        metrics.pairs_scored([PairScored(job(OTHER), scored_pair(Verdict.PASS, (part,), coverage, "second"))])

    def shown(where: CollectorRegistry) -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels.get("le", "")): sample.value
            for family in where.collect()
            for sample in family.samples
            if sample.name.startswith(name)
            and labels.items() <= sample.labels.items()
            and "_created" not in sample.name
        }

    assert shown(registry) == pytest.approx(shown(theirs))
