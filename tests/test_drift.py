"""Traffic is counted by the bins of the cards' references, and what comes of it can be held against them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from conftest import watchlist_document, watchlist_of
from psi import noise_floor, psi
from scopewatch.app.watchlists import describe
from scopewatch.calibration.reference import reference_of
from scopewatch.errors import WatchlistError
from scopewatch.lifecycle.check import check_watchlist
from scopewatch.metrics import Metrics
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pipeline.cache import LocalCache
from scopewatch.pipeline.monitor import Monitor
from scopewatch.scripts import SCRIPTS, main_script
from scopewatch.types import Pair, ScoreJob, Segment
from scopewatch.verdicts import ScoredPair
from scopewatch.watch.bins import FIRED_BINS, SCORE_BINS, Bins, bins_of
from scopewatch.watch.cards import Card, Measurement
from scopewatch.watch.reference import LEVELS, Reference
from scopewatch.watch.watchlist import Watchlist, load_watchlist
from spine import IDENTITY, FakeReader, build_monitor, fire, read, watchlist_set
from test_reference import KEPT

DEMO = Path(__file__).parents[1] / "service" / "scopewatch" / "demo"
LOUD: dict[str, Any] = {"name": "loud", "features": [{"feature": "early/1"}, {"feature": "late/0", "weight": -0.5}]}
TERMS = ("early/1 max", "late/0 max")
SCORES = Bins(edges=(-1.0, 0.5, 2.0), counts=(10, 20, 30, 40))
FIRES = Bins(edges=(0.0, 3.0), counts=(50, 25, 25))


def by_hand(edges: Sequence[float], values: Sequence[float]) -> list[int]:
    """How many values lie in each bin: above so many edges, and not above the next."""
    above = [sum(value > edge for edge in edges) for value in values]
    return [above.count(number) for number in range(len(edges) + 1)]


def card(score_bins: Bins | None = SCORES, term_bins: Bins = FIRES, **more: Any) -> Card:
    """A card of 100 benign pairs, by default with bins of the score and of both terms of LOUD."""
    terms = dict.fromkeys(TERMS, tuple(map(float, range(11))))
    bins = {"score_bins": score_bins, "term_bins": dict.fromkeys(TERMS, term_bins)} if score_bins else {}
    reference = Reference(**KEPT | {"n": 100, "terms": terms} | bins)
    measured = Measurement(data="d", n=9, n_positive=0)
    return Card(date="d", calibrated_on="c", n=9, **{"measurements": (measured,), "reference": reference} | more)


def carded(name: str, digest: str = "1" * 64, threshold: float = 3.0, **of_card: Any) -> Watchlist:
    """A watchlist of one indicator with a card."""
    found = watchlist_of(LOUD | {"threshold": threshold}, name=name)
    (indicator,) = found.indicators
    return replace(found, digest=digest, indicators=(indicator.model_copy(update={"card": card(**of_card)}),))


def monitor_of(registry: CollectorRegistry, *watchlists: Watchlist, **settings: Any) -> tuple[Monitor, Metrics]:
    """A monitor that judges by these watchlists, and its metrics."""
    metrics, live = Metrics(registry, **settings), watchlist_set(*watchlists)
    monitor = build_monitor(LocalCache(1 << 20, metrics), metrics, FakeReader(), watchlists=live)
    metrics.describe(IDENTITY, watchlists, {"version": "1"})
    return monitor, metrics


async def judge(monitor: Monitor, *responses: str, watchlist: str = "") -> list[ScoredPair]:
    """What a monitor says of responses."""
    outcomes = await monitor.score([ScoreJob(Pair("why", text), watchlist, "id") for text in responses])
    return [one for one in outcomes if isinstance(one, ScoredPair)]


def shown(registry: CollectorRegistry, name: str, **labels: str) -> dict[str, float]:
    """The samples of a name that carry some labels, by their bin, or by their boundary."""
    return {
        sample.labels.get("bin", sample.labels.get("le", "")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"scopewatch_{name}" and labels.items() <= sample.labels.items()
    }


class TestBins:
    @given(st.lists(st.floats(-1e6, 1e6) | st.sampled_from([0.0, 0.5, -0.0]), min_size=1, max_size=60))
    def test_every_value_is_counted_in_one_bin(self, values: list[float]) -> None:
        """Whatever the values, ties and constants included: edges ascend, and each bin holds what lies between its own."""
        bins = bins_of(values)
        assert list(bins.edges) == sorted(set(bins.edges))
        assert list(bins.counts) == by_hand(bins.edges, values)
        assert len(bins) <= SCORE_BINS
        if min(values) >= 0:
            assert (bins.edges[0], bins.counts[0]) == (0, values.count(0.0))
            assert len(bins) <= FIRED_BINS + 1

    @pytest.mark.parametrize(("low", "parts"), [(-1, SCORE_BINS), (0.001, FIRED_BINS + 1)], ids=["scores", "feature"])
    def test_bins_hold_equal_shares(self, low: float, parts: int) -> None:
        """Where no values are equal, every bin but that of what did not fire holds the same number of them."""
        bins = bins_of(np.linspace(low, 2, 840))
        assert len(bins) == parts
        assert set(bins.counts[low > 0 :]) == {840 // (parts - (low > 0))}

    @pytest.mark.parametrize(("fired", "bins"), [(0, 2), (1, 2), (19, 2), (20, 3), (35, 4), (50, 6), (100, 6)])
    def test_a_rare_feature_has_few_bins(self, fired: int, bins: int) -> None:
        """No bin above 0 holds less than a tenth of the pairs, for it would be more noise than signal."""
        found = bins_of([0.0] * (100 - fired) + [1 + number / 7 for number in range(fired)])
        assert len(found) == bins
        assert found.counts[0] == 100 - fired

    def test_a_reference_has_bins_of_the_score_and_of_every_term(self) -> None:
        """What `calibrate` and `watchlist reference` keep of pairs holds each of them once, in all of its bins."""
        scores, fired = np.linspace(-2, 2, 40), np.repeat([0.0, 1.0, 2.0, 5.0], 10)
        pairs = [LabelledPair(Pair("", "a"), False, str(n), n) for n in range(40)]
        made = reference_of("data", pairs, scores, {"res/1 max": fired})
        assert made.score_bins == bins_of(scores)
        assert made.term_bins == {"res/1 max": Bins(edges=(0.0, 1.0, 2.0), counts=(10, 10, 10, 10))}
        assert Reference.model_validate_json(made.model_dump_json()) == made

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ({"score_bins": {"edges": [], "counts": [100]}}, "reference.score_bins.edges"),
            ({"score_bins": {"edges": [0, 0], "counts": [1, 1, 98]}}, "score_bins.edges: edges ascend"),
            ({"score_bins": {"edges": [0, float("nan")], "counts": [1, 1, 98]}}, "score_bins.edges[1]"),
            ({"score_bins": {"edges": [0], "counts": [100]}}, "score_bins.counts: 1 edges make 2 bins"),
            ({"score_bins": {"edges": [0], "counts": [-1, 101]}}, "score_bins.counts[0]"),
            ({"score_bins": {"edges": [0], "counts": [1, 98]}}, "score_bins: counts add up to 99, but n is 100"),
            ({"score_bins": {"edges": [*range(16)], "counts": [*[0] * 16, 100]}}, "score_bins.edges"),
            ({"term_bins": {"a max": {"edges": [0], "counts": [50, 50]}}}, "but no score_bins"),
            (
                {
                    "term_bins": {"b max": {"edges": [0], "counts": [50, 50]}},
                    "score_bins": {"edges": [0], "counts": [1, 99]},
                },
                "term_bins: b max is no entry of terms",
            ),
            (
                {
                    "term_bins": {"a max": {"edges": [0], "counts": [50, 51]}},
                    "score_bins": {"edges": [0], "counts": [1, 99]},
                },
                "term_bins: a max: counts add up to 101",
            ),
        ],
    )
    def test_wrong_bins_are_refused_by_their_name(self, tmp_path: Path, change: dict[str, Any], told: str) -> None:
        """A watchlist whose card holds bins that cannot be says where they stand and what is wrong."""
        reference = {"n": 100, "terms": {"a max": [*map(float, range(11))]}} | change
        kept = {name: list(one) if isinstance(one, tuple) else one for name, one in (KEPT | reference).items()}
        made = {"date": "2026-11-22", "calibrated_on": "some", "n": 4, "reference": kept}
        document: Any = watchlist_document()
        document["indicators"][0]["card"] = made | {"measurements": [{"data": "d", "n": 9, "n_positive": 0}]}
        file = tmp_path / "list.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        with pytest.raises(WatchlistError) as wrong:
            load_watchlist(file)
        assert told in str(wrong.value)
        assert str(wrong.value).startswith(f"{file}:")

    @pytest.mark.parametrize("file", [DEMO / "watchlist.yaml", DEMO / "smollm2-135m-instruct" / "watchlist.yaml"])
    def test_the_bundled_cards_have_bins_of_the_very_pairs_of_their_quantiles(self, file: Path) -> None:
        """Every card has bins of score and terms; the share of pairs below each edge is what the quantiles say of it."""
        for indicator in load_watchlist(file).indicators:
            assert indicator.card
            kept = indicator.card.reference
            assert kept
            assert kept.score_bins
            assert kept.term_bins.keys() == kept.terms.keys() == set(indicator.term_names)
            together = [
                (kept.score, kept.score_bins),
                *((kept.terms[name], kept.term_bins[name]) for name in kept.terms),
            ]
            for quantiles, bins in together:
                below = np.cumsum(bins.counts)[:-1] / kept.n
                for edge, share in zip(bins.edges, below, strict=True):
                    # Quantiles are interpolated, and both are rounded: a share may be a pair off, or more at ties.
                    sure = [level for level, value in zip(LEVELS, quantiles, strict=True) if value < edge]
                    never = [level for level, value in zip(LEVELS, quantiles, strict=True) if value > edge]
                    assert max(sure, default=0) - 2 / kept.n <= share <= min(never, default=1) + 2 / kept.n


class TestCounting:
    TEXTS = ("a", "bd", "because", "zz", "the end", "lll")

    @pytest.mark.parametrize("times", [1, 2], ids=["fresh", "remembered"])
    async def test_scores_and_terms_are_counted_by_their_bins(self, registry: CollectorRegistry, times: int) -> None:
        """What the page shows is what is found from the scores of the replies, and from the activations, by hand."""
        monitor, _ = monitor_of(registry, carded("first"))
        for _ in range(times):
            scored = await judge(monitor, *self.TEXTS)
        pooled: dict[int, list[float]] = {0: [], 2: []}
        for text in self.TEXTS:
            tokens = read(Pair("why", text))
            fired = fire(tokens.ids)
            on_text = tokens.segments[fired.token] == Segment.RESPONSE
            for column, values in pooled.items():
                values.append(max([0.0, *fired.value[on_text & (fired.column == column)].tolist()]))

        def found(name: str, **labels: str) -> list[float]:
            return [*shown(registry, name, watchlist="first", indicator="loud", **labels).values()]

        scores = [one.indicators[0].score for one in scored]
        assert found("indicator_bin_pairs_total") == [times * n for n in by_hand(SCORES.edges, scores)]
        for term, column in zip(TERMS, (0, 2), strict=True):
            counted = found("feature_bin_pairs_total", feature=term)
            assert counted == [times * n for n in by_hand(FIRES.edges, pooled[column])]
            assert counted[0] > 0
            assert sum(counted) == times * len(self.TEXTS)

    def test_the_reference_is_published(self, registry: CollectorRegistry) -> None:
        """Shares of the benign pairs by bin, their number, the threshold, and the share of them that is flagged."""
        rows = [Measurement(data="d", n=9, n_positive=4, fpr=0.5), Measurement(data="t", n=9, n_positive=0)]
        rows[1] = rows[1].model_copy(update={"fpr": 0.03, "fpr_groups": 0.04, "fpr_upper": 0.05})
        monitor_of(registry, carded("first", measurements=tuple(rows)), carded("second"))
        own = {"watchlist": "first", "indicator": "loud"}
        assert shown(registry, "indicator_reference_ratio", **own) == {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4}
        assert shown(registry, "feature_reference_ratio", feature=TERMS[0], **own) == {"0": 0.5, "1": 0.25, "2": 0.25}
        assert [*shown(registry, "reference_pairs", **own).values()] == [100]
        assert [*shown(registry, "indicator_threshold", **own).values()] == [3.0]
        assert [*shown(registry, "indicator_reference_flag_ratio", **own).values()] == [0.04]
        assert not shown(registry, "indicator_reference_flag_ratio", watchlist="second")

    @pytest.mark.parametrize("most", range(6))
    async def test_terms_beyond_the_bound_have_no_series(self, registry: CollectorRegistry, most: int) -> None:
        """At most `max_feature_series` terms are counted, of each indicator alike those that stand first; scores always are."""
        monitor, _ = monitor_of(registry, carded("first"), carded("second"), max_feature_series=most)
        await judge(monitor, *self.TEXTS)
        found = {
            (sample.labels["feature"], sample.labels["watchlist"])
            for family in registry.collect()
            for sample in family.samples
            if sample.name == "scopewatch_feature_bin_pairs_total"
        }
        assert found == set([(term, name) for term in TERMS for name in ("first", "second")][:most])
        assert sum(shown(registry, "indicator_bin_pairs_total", watchlist="first").values()) == len(self.TEXTS)

    async def test_what_was_not_scored_is_in_no_bin(self, registry: CollectorRegistry) -> None:
        """An indicator that had nothing to read says nothing of how its scores lie."""
        watchlist = carded("first")
        past = watchlist.indicators[0].model_copy(update={"segment": "history"})
        monitor, _ = monitor_of(registry, replace(watchlist, indicators=(past,)))
        await judge(monitor, "because")
        assert set(shown(registry, "indicator_bin_pairs_total").values()) == {0}
        assert set(shown(registry, "feature_bin_pairs_total").values()) == {0}

    def test_cards_without_bins_have_no_series_and_say_so(
        self, registry: CollectorRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A card that was written before there were bins is valid, is not counted, and the log and `check` tell."""
        caplog.set_level("INFO")
        plain, metrics = carded("first", score_bins=None), Metrics(registry)
        describe(metrics, watchlist_set(plain, carded("second")))
        assert {
            s.labels["watchlist"] for f in registry.collect() for s in f.samples if "reference_pairs" in s.name
        } == {"second"}
        (told,) = [record for record in caplog.records if "no bins" in record.message]
        assert vars(told)["indicators"] == ["first: loud"]
        file = tmp_path / "list.yaml"
        bare = yaml.safe_load((DEMO / "watchlist.yaml").read_text())
        del bare["indicators"][0]["card"]["reference"]
        file.write_text(yaml.safe_dump(bare))
        checked = check_watchlist(file)
        assert [one.binned for one in checked.indicators] == [False, True, True]
        assert sum("watchlist reference" in line for line in checked.lines()) == 1


class TestReplacing:
    async def test_counts_by_other_bins_are_never_added_up(self, registry: CollectorRegistry) -> None:
        """After a reload with other bins the old series are gone, and the new ones begin at 0 under another digest."""
        monitor, metrics = monitor_of(registry, carded("first"))
        await judge(monitor, "because", "zz")
        (former,) = {
            s.labels["reference"] for f in registry.collect() for s in f.samples if "reference_pairs" in s.name
        }
        other = carded("first", digest="2" * 64, score_bins=SCORES.model_copy(update={"edges": (-1.0, 0.5, 7.0)}))
        metrics.describe(IDENTITY, [other], {"version": "1"})
        await judge(monitor, "because")  # by the watchlists from before: this call began with them
        assert not shown(registry, "indicator_bin_pairs_total", reference=former)
        assert sum(shown(registry, "indicator_bin_pairs_total").values()) == 0
        assert sum(shown(registry, "feature_bin_pairs_total").values()) == 0
        await monitor.replace(watchlist_set(other, version=2))
        await judge(monitor, "because")
        assert sum(shown(registry, "indicator_bin_pairs_total").values()) == 1

    async def test_counts_go_on_where_the_reference_stays(self, registry: CollectorRegistry) -> None:
        """Another threshold leaves what is counted by bins; what was released by one reference another takes up at 0."""
        monitor, metrics = monitor_of(registry, carded("first"), carded("second"))
        await judge(monitor, "because", "zz")
        await judge(monitor, "because", watchlist="second")
        for version, gone in enumerate((SCORES.edges, (0.0, 1.0, 2.0), (0.0, 1.5, 3.0)), 2):
            kept = carded("first", digest=str(version) * 64, threshold=4.0)
            other = carded("second", digest=str(version) * 64, score_bins=SCORES.model_copy(update={"edges": gone}))
            metrics.describe(IDENTITY, [kept, other], {"version": "1"})
            await monitor.replace(watchlist_set(kept, other, version=version))
            assert sum(shown(registry, "indicator_bin_pairs_total", watchlist="first").values()) == version
            assert sum(shown(registry, "indicator_bin_pairs_total", watchlist="second").values()) == (version == 2)
            await judge(monitor, "because")

    async def test_a_histogram_of_scores_has_a_boundary_at_the_threshold(self, registry: CollectorRegistry) -> None:
        """The bucket that ends at the threshold holds the pairs that are not flagged, also at the threshold itself; with another
        threshold the histogram begins again."""
        before = await judge(monitor_of(CollectorRegistry(), carded("first"))[0], *"abcde")
        threshold = sorted(one.indicators[0].score for one in before)[2]
        monitor, metrics = monitor_of(registry, carded("first", threshold=threshold))
        flags = sum(one.indicators[0].flagged for one in await judge(monitor, *"abcde"))
        assert 0 < flags < 3
        assert shown(registry, "indicator_score_bucket")[str(threshold)] == 5 - flags
        metrics.describe(IDENTITY, [carded("first", threshold=0.125)], {"version": "1"})
        again = shown(registry, "indicator_score_bucket")
        assert str(threshold) not in again
        assert (again["0.125"], again["+Inf"]) == (0, 0)


class TestPsi:
    def test_the_definition(self) -> None:
        """Shares .5 .3 .2 against .8 .15 .05 give 0.453, equal ones 0, and it is the same both ways round."""
        live, then = np.array([5e8, 3e8, 2e8]), np.array([8e8, 1.5e8, 0.5e8])
        assert psi(live, then) == pytest.approx(0.4529, abs=1e-4)
        assert psi(live, then) == pytest.approx(psi(then, live))
        assert psi(live, live) == 0

    def test_the_noise_floor(self) -> None:
        """Of two samples of one distribution the index is, on average, what the formula says."""
        dice, shares = np.random.default_rng(7), np.full(8, 1 / 8)
        drawn = [psi(dice.multinomial(600, shares), dice.multinomial(950, shares)) for _ in range(2000)]
        assert np.mean(drawn) == pytest.approx(noise_floor(8, 600, 950), rel=0.05)

    async def test_the_page_gives_the_index(self, registry: CollectorRegistry) -> None:
        """From what the page shows of like traffic the index is at the noise floor, and of other traffic far above."""
        dice = np.random.default_rng(3)

        def texts(letters: str, n: int) -> list[str]:
            return ["".join(dice.choice(list(letters), 6)) for _ in range(n)]

        benign = await judge(monitor_of(CollectorRegistry(), carded("first"))[0], *texts("abcdefghij", 200))
        pairs = [LabelledPair(Pair("", "a"), False, str(n), n) for n in range(200)]
        values = {term: np.zeros(200) for term in TERMS}
        for row, one in enumerate(benign):
            for feature in one.indicators[0].features:
                values[f"{feature.feature} {feature.pooling}"][row] = feature.pooled
        scores = np.array([one.indicators[0].score for one in benign])
        made = carded("first", reference=reference_of("data", pairs, scores, values))

        def index(where: CollectorRegistry, of: str, **labels: str) -> float:
            ratios = shown(where, f"{of}_reference_ratio", **labels)
            (n,) = shown(where, "reference_pairs").values()
            return psi(
                [*shown(where, f"{of}_bin_pairs_total", **labels).values()], [n * one for one in ratios.values()]
            )

        other = CollectorRegistry()
        for where, letters in ((registry, "abcdefghij"), (other, "dhjn")):
            await judge(monitor_of(where, made)[0], *texts(letters, 200))
        quiet = noise_floor(SCORE_BINS, 200, 200)
        assert index(registry, "indicator") < 3 * quiet
        assert index(other, "indicator") > 5 * quiet
        assert index(other, "feature", feature=TERMS[0]) > 5 * quiet > index(registry, "feature", feature=TERMS[0])


class TestInputMix:
    @pytest.mark.parametrize(
        ("text", "script"),
        [
            ("", "none"),
            ("12 + 30 = 42 …", "none"),
            ("It may rain.", "latin"),
            ("Ça dépend, voilà.", "latin"),
            ("Может быть, завтра (maybe).", "cyrillic"),
            ("明日は雨が降るかもしれません。", "hiragana"),
            ("明天可能会下雨。", "han"),
            ("내일 비가 올 수도", "hangul"),
            ("قد تمطر غدا", "arabic"),
            ("कल बारिश हो सकती है", "devanagari"),
            ("ᚠᚢᚦᚨᚱᚲ", "other"),
            ("\uff26\uff35\uff2c\uff2c", "latin"),
            ("def calculate(value): return value\n" + "Это длинный ответ. " * 20_000, "cyrillic"),
        ],
    )
    def test_the_main_script(self, text: str, script: str) -> None:
        """The script of most letters, by Unicode's own property, whatever stands first."""
        assert main_script(text) == script
        assert script in SCRIPTS

    async def test_lengths_and_scripts_of_the_pairs_are_counted(self, registry: CollectorRegistry) -> None:
        """A histogram of tokens for each segment, whose sum is that of all tokens; pairs by script, remembered or not."""
        monitor, _ = monitor_of(registry, carded("first"))
        for _ in range(2):
            await judge(monitor, "because", "a" * 300)
        assert [*shown(registry, "pair_scripts_total", script="none").values()] == [4]
        assert registry.get_sample_value("scopewatch_pair_scripts_total", {"script": "latin"}) == 0
        for segment, lengths in {"prompt": [3, 3], "response": [7, 300], "history": [0, 0]}.items():
            name = "pair_tokens"
            assert shown(registry, f"{name}_count", segment=segment)[""] == 4
            assert shown(registry, f"{name}_sum", segment=segment)[""] == 2 * sum(lengths)
            assert shown(registry, f"{name}_sum", segment=segment) == shown(registry, "tokens_total", segment=segment)
            for bound, count in shown(registry, f"{name}_bucket", segment=segment).items():
                assert count == 2 * sum(length <= float(bound) for length in lengths)
