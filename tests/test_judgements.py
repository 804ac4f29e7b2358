"""Which judgements the spine remembers, when it may answer with them, and what it keeps of the text."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from conftest import activations, judgement
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.judgements import Judgements, Remembered
from scopewatch.pipeline.monitor import Monitor
from scopewatch.types import Caller, Cleaning, Coverage, CoveredActivations, Pair, ScoreJob, Turn
from scopewatch.verdicts import ScoredPair, Verdict
from spine import TABLE, VALUES, FakeReader, build_monitor, read

PAIR = Pair("may I?", "yes, of course", (Turn("user", "hi"),))


def job(pair: Pair = PAIR, watchlist: str = "", *, evidence: bool = True) -> ScoreJob:
    return ScoreJob(pair, watchlist, "id", include_evidence=evidence)


class CountingReader(FakeReader):
    """Remembers what was tokenised, too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenised: list[str] = []

    async def tokenise(self, pairs: list[Pair], cleanings: list[Cleaning]) -> list[object]:
        self.tokenised += [pair.response for pair in pairs]
        return await super().tokenise(pairs, cleanings)


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader()


@pytest.fixture
def cache(metrics: Metrics) -> LocalCache:
    return LocalCache(1 << 20, metrics)


@pytest.fixture
def judgements() -> Judgements:
    return Judgements(1 << 20)


@pytest.fixture
def monitor(cache: LocalCache, metrics: Metrics, reader: CountingReader, judgements: Judgements) -> Monitor:
    return build_monitor(cache, metrics, reader, judgements=judgements)


async def score(monitor: Monitor, wanted: ScoreJob) -> ScoredPair:
    (outcome,) = await monitor.score([wanted])
    assert isinstance(outcome, ScoredPair)
    return outcome


def reads(registry: CollectorRegistry, result: str) -> float | None:
    return registry.get_sample_value("scopewatch_cache_requests_total", {"result": result})


async def test_a_pair_that_comes_again_is_only_looked_up(
    monitor: Monitor, reader: CountingReader, registry: CollectorRegistry
) -> None:
    """It is tokenised and judged once, and every later answer is a hit with the very same judgement."""
    answers = [await score(monitor, job()) for _ in range(3)]

    assert (len(reader.tokenised), len(reader.asked)) == (1, 1)
    assert [answer.cached for answer in answers] == [False, True, True]
    assert answers[0].judgement is answers[1].judgement is answers[2].judgement
    assert (reads(registry, "miss"), reads(registry, "hit")) == (1, 2)
    assert answers[2].timings.tokenise_s == 0 < answers[2].timings.cache_s


async def test_what_the_cache_forgot_is_read_again(
    monitor: Monitor, cache: LocalCache, reader: CountingReader, registry: CollectorRegistry
) -> None:
    """A remembered judgement is no answer when the cache does not hold its value, and the miss counts once."""
    await score(monitor, job())
    await cache.close()
    again = await score(monitor, job())

    assert (again.cached, len(reader.asked)) == (False, 2)
    assert (reads(registry, "miss"), reads(registry, "hit")) == (2, 0)


async def test_another_value_in_the_cache_is_judged_anew(monitor: Monitor, cache: LocalCache) -> None:
    """What the cache holds decides, not what was remembered: a value of another writer is scored as it is."""
    first = await score(monitor, job())
    tokens = read(PAIR)
    key = VALUES.key(tokens, "")
    others = activations(len(tokens.ids), (len(tokens.ids) - 1, 0, 1000.0))
    cache.put_many({key: VALUES.dump(key, CoveredActivations(others, TABLE))})
    second = await score(monitor, job())

    assert second.cached
    assert second.indicators[0].score == 1000 > first.indicators[0].score


async def test_known_and_new_pairs_share_a_batch(monitor: Monitor, reader: CountingReader) -> None:
    """Each pair of a batch gets its own answer, in order, whether remembered, cached, new or repeated."""
    texts = [f"text {number}" for number in range(6)]
    alone = {text: (await score(build_fresh(), job(Pair("", text)))).indicators for text in texts}
    await monitor.score([job(Pair("", text)) for text in texts[::3]])
    order = [*texts, texts[1], texts[0]]
    mixed = await monitor.score([job(Pair("", text)) for text in order])

    assert [alone[text] for text in order] == [
        outcome.indicators for outcome in mixed if isinstance(outcome, ScoredPair)
    ]
    assert reader.tokenised == [texts[0], texts[3], texts[1], texts[2], texts[4], texts[5], texts[1]]


def build_fresh() -> Monitor:
    metrics = Metrics(CollectorRegistry())
    return build_monitor(LocalCache(0, metrics), metrics, FakeReader())


@pytest.mark.parametrize("changed", [job(watchlist="second"), job(evidence=False)], ids=["watchlist", "evidence"])
async def test_other_questions_about_the_same_text_are_answered_anew(
    monitor: Monitor, reader: CountingReader, changed: ScoreJob
) -> None:
    """Another watchlist, or no evidence, is another judgement of the same cached value."""
    first = await score(monitor, job())
    other = await score(monitor, changed)

    assert other.cached
    assert first.indicators != other.indicators
    assert len(reader.asked) == 1


async def test_tenants_share_neither_judgements_nor_values(monitor: Monitor, reader: CountingReader) -> None:
    """The same text of another tenant is read anew, and no answer says that somebody else asked; one's own is cached."""
    asked = [replace(job(), caller=Caller(name, tenant)) for name, tenant in (("a", "one"), ("b", "two"), ("c", "one"))]
    answers = [await score(monitor, one) for one in (*asked, job())]

    assert [answer.cached for answer in answers] == [False, False, True, False]
    assert len(reader.asked) == 3
    assert 1 == len({answer.indicators for answer in answers})


texts = st.text(alphabet="ab\0\ud800é", max_size=3)
questions = st.builds(
    lambda tenant, prompt, response, history, evidence, watchlist: (
        ScoreJob(
            Pair(prompt, response, tuple(Turn(*turn) for turn in history)),
            "",
            "",
            include_evidence=evidence,
            caller=Caller(tenant=tenant),
        ),
        watchlist,
    ),
    texts,
    texts,
    texts,
    st.lists(st.tuples(texts, texts), max_size=2),
    st.booleans(),
    st.binary(max_size=3),
)


@given(questions, questions)
def test_a_name_tells_every_two_questions_apart(one: tuple[ScoreJob, bytes], other: tuple[ScoreJob, bytes]) -> None:
    """Names are equal when the tenant, the text, its parts, the watchlist and the wish for evidence are, and only then."""
    judgements = Judgements(1)
    assert (one == other) == (judgements.name(*one) == judgements.name(*other))


def test_names_of_two_processes_differ() -> None:
    """A digest says nothing about a text to whoever lacks the process's secret."""
    assert Judgements(1).name(job(), b"first") != Judgements(1).name(job(), b"first")


async def test_neither_text_nor_tokens_are_kept(monitor: Monitor, judgements: Judgements) -> None:
    """What is remembered shows no text, nor the tokens to make one of."""
    wanted = job(Pair("canary", "canary canary"))
    await score(monitor, wanted)
    found = judgements.get(judgements.name(wanted, monitor.watchlists.named("first").digest))

    assert found is not None
    assert "canary" not in repr(found)
    ids = read(wanted.pair).ids.tobytes()
    assert not any(ids in part for part in (*found.values, *found.keys))


def remembered(size: int) -> Remembered:
    return Remembered((b"key",), (bytes(size),), judgement(Verdict.PASS, (), Coverage(1, 0, 1, 0)))


def test_the_last_used_stay_within_the_bound() -> None:
    """Of four entries of which three fit, the one not used for longest goes."""
    judgements = Judgements(3 * 13_000)
    names = [judgements.name(job(Pair("", str(number))), b"first") for number in range(4)]
    for name in names[:3]:
        judgements.put(name, remembered(10_000))
    judgements.get(names[0])
    judgements.put(names[3], remembered(10_000))

    assert [judgements.get(name) is not None for name in names] == [True, False, True, True]
