"""What the spine remembers of judgements, when it may answer with them, and what it keeps of the text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from conftest import activations
from scopewatch.metrics import Metrics
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.cached_value import dump
from scopewatch.pipeline.judgements import Judged, Memory
from scopewatch.pipeline.monitor import Monitor
from scopewatch.types import Coverage, Pair, ScoredPair, ScoreJob, Turn, Verdict
from spine import KEYS, FakeReader, build_monitor, read

PAIR = Pair("may I?", "yes, of course", (Turn("user", "hi"),))


def job(pair: Pair = PAIR, watchlist: str = "", *, evidence: bool = True) -> ScoreJob:
    return ScoreJob(pair, watchlist, "id", include_evidence=evidence)


class CountingReader(FakeReader):
    """Remembers what was tokenised and rendered, too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenised: list[str] = []
        self.rendered: list[str] = []

    async def tokenise(self, pairs: list[Pair]) -> list[object]:
        self.tokenised += [pair.response for pair in pairs]
        return await super().tokenise(pairs)

    def render(self, watchlist: str, verdict: Verdict, indicators: object, coverage: Coverage) -> bytes:
        self.rendered.append(watchlist)
        return repr((watchlist, verdict, indicators, coverage)).encode()


@pytest.fixture
def reader() -> CountingReader:
    return CountingReader()


@pytest.fixture
def cache(metrics: Metrics) -> LocalCache:
    return LocalCache(1 << 20, metrics)


@pytest.fixture
def memory() -> Memory:
    return Memory(1 << 20)


@pytest.fixture
def monitor(cache: LocalCache, metrics: Metrics, reader: CountingReader, memory: Memory) -> Monitor:
    return build_monitor(cache, metrics, reader, memory=memory, render=reader.render)


async def score(monitor: Monitor, wanted: ScoreJob) -> ScoredPair:
    (outcome,) = await monitor.score([wanted])
    assert isinstance(outcome, ScoredPair)
    return outcome


def reads(registry: CollectorRegistry, result: str) -> float | None:
    return registry.get_sample_value("scopewatch_cache_requests_total", {"result": result})


async def test_a_pair_that_comes_again_is_only_looked_up(
    monitor: Monitor, reader: CountingReader, registry: CollectorRegistry
) -> None:
    """It is tokenised and rendered once, and every later answer is a hit of the same content."""
    answers = [await score(monitor, job()) for _ in range(3)]

    assert (len(reader.tokenised), len(reader.rendered), len(reader.asked)) == (1, 1, 1)
    assert [answer.cached for answer in answers] == [False, True, True]
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].indicators == answers[1].indicators == answers[2].indicators
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
    assert (reads(registry, "miss"), reads(registry, "hit")) == (2, None)


async def test_another_value_in_the_cache_is_judged_anew(monitor: Monitor, cache: LocalCache) -> None:
    """What the cache holds decides, not what was remembered: a value of another writer is scored as it is."""
    first = await score(monitor, job())
    tokens = read(PAIR)
    key = KEYS.key(tokens)
    cache.put_many({key: dump(key, activations(len(tokens.ids), (len(tokens.ids) - 1, 0, 1000.0)))})
    second = await score(monitor, job())

    assert second.cached
    assert second.indicators[0].score == 1000 > first.indicators[0].score
    assert second.body != first.body


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
    assert (len(reader.asked), len(reader.rendered)) == (1, 2)


texts = st.text(alphabet="ab\0\ud800é", max_size=3)
questions = st.builds(
    lambda prompt, response, history, evidence, watchlist: (
        ScoreJob(Pair(prompt, response, tuple(Turn(*turn) for turn in history)), "", "", include_evidence=evidence),
        watchlist,
    ),
    texts,
    texts,
    st.lists(st.tuples(texts, texts), max_size=2),
    st.booleans(),
    texts,
)


@given(questions, questions)
def test_a_name_tells_every_two_questions_apart(one: tuple[ScoreJob, str], other: tuple[ScoreJob, str]) -> None:
    """Names are equal when the text, its parts, the watchlist and the wish for evidence are, and only then."""
    memory = Memory(1)
    assert (one == other) == (memory.name(*one) == memory.name(*other))


def test_names_of_two_processes_differ() -> None:
    """A digest says nothing about a text to whoever lacks the process's secret."""
    assert Memory(1).name(job(), "first") != Memory(1).name(job(), "first")


async def test_neither_text_nor_tokens_are_kept(monitor: Monitor, memory: Memory) -> None:
    """What is remembered shows no text, nor the tokens to make one of."""
    await score(monitor, job(Pair("canary", "canary canary")))
    name = memory.name(job(Pair("canary", "canary canary")), "first")
    judged = memory.get(name)

    assert judged is not None
    assert "canary" not in repr(judged)
    ids = read(Pair("canary", "canary canary")).ids.tobytes()
    assert not any(ids in part for part in (judged.value, judged.body, judged.key))


def judged(size: int) -> Judged:
    return Judged(b"key", bytes(size), Verdict.PASS, (), Coverage(1, 0, 1, 0), b"", np.empty(0, np.intp))


def test_the_last_used_stay_within_the_bound() -> None:
    """Of four entries of which three fit, the one not used for longest goes."""
    memory = Memory(3 * 12_000)
    names = [memory.name(job(Pair("", str(number))), "first") for number in range(4)]
    for name in names[:3]:
        memory.put(name, judged(10_000))
    memory.get(names[0])
    memory.put(names[3], judged(10_000))

    assert [memory.get(name) is not None for name in names] == [True, False, True, True]
