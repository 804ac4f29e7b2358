"""From labelled pairs to an indicator: what is found, what is refused, and what is written about it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from sklearn.metrics import roc_auc_score

from plain_words import WORDS
from scopewatch.calibration.calibrate import calibrate
from scopewatch.calibration.log_odds import platt
from scopewatch.calibration.sparse_fit import fit_combination
from scopewatch.calibration.split import split
from scopewatch.calibration.thresholds import benign_threshold
from scopewatch.calibration.wanted import Kind, Wanted, Weights
from scopewatch.cli import main
from scopewatch.errors import DataError, TooLittleData, Unsupported
from scopewatch.pairs.copies import join_copies
from scopewatch.pairs.data_files import PairsRead
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.pooled import PooledPairs
from scopewatch.statistics.calibration_error import calibration_error
from scopewatch.statistics.folds import grouped_folds, source_folds
from scopewatch.types import Pair
from scopewatch.watch.poolings import Pooling
from scopewatch.watch.terms import SIGNALS
from scopewatch.watch.watchlist import load_watchlist

MAX, MEAN = Pooling(kind="max"), Pooling(kind="mean")


@dataclass
class Pooled:
    """Stands in for what the store reads from disk."""

    by_pooling: dict[Pooling, csr_array]
    activations: NDArray[np.float32]
    tokens: NDArray[np.int32]

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        return tuple(self.by_pooling)

    def features(self, pooling: Pooling, rows: NDArray[np.intp] | None = None) -> csr_array:
        return self.by_pooling[pooling] if rows is None else self.by_pooling[pooling][rows]

    def dense(self, _: Pooling) -> NDArray[np.float32]:
        return self.activations


def made(
    n: int = 400, *, signal: float = 1.5, seed: int = 0, long_when_positive: bool = False, per_group: int = 1
) -> tuple[list[LabelledPair], PooledPairs]:
    """Pairs of random words; features 3 and 7 (under max) know the label, and so does one direction of the residual."""
    draw = np.random.default_rng(seed)
    labels = draw.random(n) < 0.4
    sparse = draw.random((n, 40)) * (draw.random((n, 40)) < 0.3)
    sparse[:, 3] += np.maximum(0, signal * labels + draw.normal(size=n) - 0.3)
    sparse[:, 7] += np.maximum(0, signal * ~labels + draw.normal(size=n) - 0.3)
    dense = draw.normal(size=(n, 6)) + 0.6 * signal * np.outer(labels, np.eye(6)[0])
    lengths = 12 + 12 * labels * long_when_positive
    texts = [" ".join(draw.choice(WORDS[:12], size)) for size in lengths]
    pairs = [
        LabelledPair(Pair("", text), int(label), line, group=f"g{line // per_group}")
        for line, (text, label) in enumerate(zip(texts, labels, strict=True))
    ]
    noise = csr_array(draw.random((n, 40)) * (draw.random((n, 40)) < 0.3))
    by_pooling = {MAX: csr_array(sparse.astype(np.float32)), MEAN: csr_array(noise.astype(np.float32))}
    pooled: PooledPairs = Pooled(by_pooling, dense.astype(np.float32), np.full(n, 12, np.int32))  # type: ignore[assignment]
    return pairs, pooled


def shuffled(pairs: Sequence[LabelledPair], seed: int) -> list[LabelledPair]:
    labels = np.random.default_rng(seed).permutation([pair.label for pair in pairs])
    return [
        LabelledPair(pair.pair, int(label), pair.line, pair.group) for pair, label in zip(pairs, labels, strict=True)
    ]


EASY = Wanted(max_fpr=0.1)


class TestFeatures:
    def test_the_features_that_know_the_label_are_found(self) -> None:
        """The two informative features carry the largest weights, with the sign of what they say."""
        found = calibrate(*made(), EASY)
        assert found.combination is not None
        assert {(term.feature, term.pooling, term.weight > 0) for term in found.combination.terms[:2]} == {
            (3, MAX, True),
            (7, MAX, False),
        }

    def test_numbers_are_of_pairs_that_were_not_fitted(self) -> None:
        """AUROC, TPR and FPR are those of the held-out half by an independent formula."""
        pairs, pooled = made()
        found = calibrate(pairs, pooled, EASY)
        rows = split(pairs, 0.5, np.ones(len(pairs), bool)).held_out
        assert found.combination is not None
        scores = found.combination.scores({p: pooled.features(p)[rows] for p in pooled.poolings})
        labels = np.array([pairs[row].label for row in rows], bool)
        evidence = found.evidence
        assert evidence.auroc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        flagged = scores > evidence.threshold.value
        assert (evidence.tpr, evidence.fpr) == (flagged[labels].mean(), flagged[~labels].mean())
        assert evidence.fpr <= evidence.threshold.fpr_upper <= 0.1

    def test_alternatives_are_measured_on_the_same_pairs(self) -> None:
        """Every alternative is there, and its lead is the difference of the two AUROCs."""
        evidence = calibrate(*made(), EASY).evidence
        assert set(evidence.alternatives) == {
            "bag_of_words",
            "response_length",
            "hedge_words",
            "dense_probe",
            "difference_of_means",
            "single_feature",
            "random_features",
        }
        for name, detector in evidence.alternatives.items():
            assert detector.lead.value == pytest.approx(evidence.auroc.value - detector.auroc.value), name
        assert evidence.beside_words == "better"

    def test_chosen_features_beat_random_ones(self) -> None:
        """The control of random features ranks about as chance does."""
        control = calibrate(*made(), EASY).evidence.alternatives["random_features"]
        assert control.auroc.value < 0.75
        assert control.lead.low > 0

    @pytest.mark.parametrize("terms", [1, 2, 8])
    def test_as_many_terms_as_wanted(self, terms: int) -> None:
        """A given number of terms is kept to."""
        found = calibrate(*made(), Wanted(max_fpr=0.1, terms=terms))
        assert found.combination is not None
        assert len(found.combination.terms) == terms

    def test_only_the_wanted_poolings_are_considered(self) -> None:
        """Features that know the label by their maximum alone are no signal to who asks for means, and no rival."""
        found = calibrate(*made(), Wanted(max_fpr=0.1, poolings=(MAX,)))
        assert found.combination is not None
        assert {term.pooling for term in found.combination.terms} == {MAX}
        with pytest.raises(Unsupported, match="no signal"):
            calibrate(*made(), Wanted(max_fpr=0.1, force=True, poolings=(MEAN,)))

    def test_weights_may_be_kept_from_being_negative(self) -> None:
        """Non-negative weights leave the feature out that speaks against the label."""
        found = calibrate(*made(), Wanted(max_fpr=0.1, weights="nonnegative"))
        assert found.combination is not None
        assert all(term.weight > 0 for term in found.combination.terms)
        assert 7 not in {term.feature for term in found.combination.terms if term.pooling == MAX}

    def test_groups_are_never_parted(self) -> None:
        """All pairs of a group are on one side of the split."""
        pairs, _ = made(per_group=4)
        rows = split(pairs, 0.5, np.ones(len(pairs), bool))
        assert not {pairs[row].group for row in rows.fit} & {pairs[row].group for row in rows.held_out}
        assert len(rows.fit) + len(rows.held_out) == len(pairs)

    def test_pairs_without_tokens_count_nowhere(self) -> None:
        """A pair of which nothing could be read is left out, and said to be."""
        pairs, pooled = made()
        pooled.tokens[:7] = 0
        evidence = calibrate(pairs, pooled, EASY).evidence
        assert evidence.skipped == 7
        assert evidence.n_fit + len(evidence.labels) == len(pairs) - 7

    def test_the_same_data_give_the_same_indicator(self) -> None:
        """Nothing is left to chance."""
        assert calibrate(*made(), EASY).combination == calibrate(*made(), EASY).combination


class TestSources:
    def test_a_group_of_two_sources_is_on_one_side(self) -> None:
        """What is left out shares no group with what is fitted, though its groups stand in other sources too."""
        labels = np.arange(160) % 2 == 0
        sources = ["a" if row < 80 else "b" for row in range(160)]
        groups = [f"g{row % 80}" if row % 3 else f"own{row}" for row in range(160)]
        folds = source_folds(labels, sources, groups)
        assert [sources[out[0]] for _, out in folds] == ["a", "b"]
        for fit, out in folds:
            assert len(fit) > 0
            assert not {groups[row] for row in fit} & {groups[row] for row in out}

    def test_a_source_at_chance_and_what_each_says_of_the_others_are_told(self) -> None:
        """Of three sources one has labels that nothing knows: its interval holds .5, and leaving out shows it, too."""
        pairs, pooled = made(800, signal=3.0)
        draw = np.random.default_rng(3)
        sources = ("lost", "good", "other", "other")
        mixed = [replace(pair, source=sources[row % 4]) for row, pair in enumerate(pairs)]
        mixed = [replace(pair, label=int(draw.random() < 0.4)) if pair.source == "lost" else pair for pair in mixed]
        found = calibrate(mixed, pooled, Wanted(max_fpr=0.1, force=True, across_sources=True)).evidence
        assert found.by_source["lost"].low < 0.5 < found.by_source["good"].low
        told = [said for said in found.conclusions if "chance on source" in said]
        assert len(told) == 1
        assert told[0].startswith("At chance on source lost: AUROC 0.")
        (each,) = (said for said in found.conclusions if "on each source by a fit on the others" in said)
        good, lost = (float(each.split(f"{name} ")[1][:5]) for name in ("good", "lost"))
        assert abs(lost - 0.5) < 0.15 < good - 0.5


class TestProbe:
    def test_a_probe_is_measured_beside_the_features(self) -> None:
        """Asked for a probe, the direction is the indicator, and the features are one of its alternatives."""
        found = calibrate(*made(), Wanted(max_fpr=0.1, kind="probe", force=True))
        assert found.combination is None
        assert found.probe is not None
        assert int(np.abs(found.probe.direction).argmax()) == 0
        assert "sae_features" in found.evidence.alternatives


class TestRefusals:
    def test_shuffled_labels_have_no_signal(self) -> None:
        """Of twenty label-shuffled sets none gives an indicator, not by force either."""
        pairs, pooled = made(240)
        for seed in range(20):
            with pytest.raises(Unsupported, match=r"no signal: AUROC .* nothing is written"):
                calibrate(shuffled(pairs, seed), pooled, Wanted(max_fpr=0.1, force=True, terms=4))

    def test_labels_that_the_length_gives_away_are_reported(self) -> None:
        """A leaky set is called leaky, with the length's own AUROC."""
        evidence = calibrate(*made(long_when_positive=True), Wanted(max_fpr=0.1, force=True)).evidence
        assert any("length alone gives the label away (AUROC 1.000)" in leak for leak in evidence.leaks)
        assert any(finding.startswith("Leaky data: ") for finding in evidence.conclusions)

    def test_what_a_bag_of_words_does_clearly_better_needs_force(self) -> None:
        """Such an indicator is refused; forced, its evidence says that words do better."""
        pairs, pooled = made()
        marked = [
            LabelledPair(
                Pair("", f"{pair.pair.response} {'zebra' if pair.label else 'lion'}"), pair.label, pair.line, pair.group
            )
            for pair in pairs
        ]
        with pytest.raises(Unsupported, match=r"is worse than that of a bag of words \(1\.000\)"):
            calibrate(marked, pooled, EASY)
        forced = calibrate(marked, pooled, Wanted(max_fpr=0.1, force=True)).evidence
        assert forced.beside_words == "worse"
        assert any(
            said.startswith("It is worse than a bag of words, by a difference of -0.") for said in forced.conclusions
        )

    def test_what_may_be_as_good_as_words_is_written_and_says_so(self) -> None:
        """Where the interval of the difference holds 0, on either side of it, nothing is refused and nothing claimed."""
        pairs, pooled = made(signal=0.9)
        draw = np.random.default_rng(8)
        for share, ahead in ((0.74, True), (0.83, False)):
            marked = [
                replace(pair, pair=Pair("", f"{pair.pair.response} {'zebra' if hit == pair.label else 'lion'}"))
                for pair, hit in zip(pairs, draw.random(len(pairs)) < share, strict=True)
            ]
            evidence = calibrate(marked, pooled, EASY).evidence
            lead = evidence.alternatives["bag_of_words"].lead
            assert lead.low < 0 < lead.high
            assert (lead.value > 0) is ahead
            assert evidence.beside_words == "undecided"
            assert any("Whether it is better than a bag of words is undecided" in said for said in evidence.conclusions)

    def test_what_a_single_feature_clearly_beats_needs_force(self) -> None:
        """Nothing is written that its own best feature alone would do better, whatever its terms were chosen by."""
        pairs, pooled = made(1200, signal=0.6)
        labels = np.array([pair.label for pair in pairs], bool)
        known = pooled.features(MAX).tolil()
        known[:, 3] = (labels + 0.4 * np.random.default_rng(1).random(len(pairs)))[:, None]
        pooled.by_pooling[MAX] = csr_array(known, dtype=np.float32)  # type: ignore[attr-defined]
        probe = Wanted(max_fpr=0.1, kind="probe")
        with pytest.raises(Unsupported, match=r"is worse than that of its best single feature, .* \(1\.000\)"):
            calibrate(pairs, pooled, probe)
        assert calibrate(pairs, pooled, replace(probe, force=True)).evidence.auroc.value < 0.9

    def test_a_bound_that_cannot_be_kept_is_refused(self) -> None:
        """Too few benign pairs for the rate: how many there are and how many it takes; forced, what can be bounded."""
        pairs, pooled = made()
        with pytest.raises(TooLittleData, match=r"too little data: .* 0\.001 needs at least 2995") as refused:
            calibrate(pairs, pooled, Wanted(max_fpr=0.001))
        assert refused.value.needed == 2995
        forced = calibrate(pairs, pooled, Wanted(max_fpr=0.001, force=True)).evidence
        assert forced.fpr == 0.0
        assert forced.threshold.fpr_upper == pytest.approx(1 - 0.05 ** (1 / forced.threshold.n))
        assert any("Too little data for a false-positive rate of 0.001" in finding for finding in forced.conclusions)

    def test_a_part_without_pairs_is_refused(self) -> None:
        """A handful of pairs is no calibration."""
        pairs, pooled = made(24)
        with pytest.raises(TooLittleData, match="at least 10 are needed"):
            calibrate(pairs, pooled, EASY)

    @pytest.mark.parametrize("kind", ["features", "probe"])
    def test_features_that_never_fire_are_no_signal(self, kind: Kind) -> None:
        """A dictionary that is silent on the data is refused in words."""
        pairs, pooled = made()
        pooled.by_pooling = {MAX: csr_array((len(pairs), 40), dtype=np.float32)}  # type: ignore[attr-defined]
        with pytest.raises(Unsupported, match="no signal: no feature fires in at least 5 of"):
            calibrate(pairs, pooled, Wanted(max_fpr=0.1, kind=kind))

    def test_a_label_of_one_group_is_refused(self) -> None:
        """Where all positives of a part are of one group there is nothing to cross-validate by."""
        pairs, pooled = made()
        sides = ("fit", "held_out")
        grouped = [
            replace(pair, group=f"all{row % 2}", split=sides[row % 2]) if pair.label else pair
            for row, pair in enumerate(pairs)
        ]
        with pytest.raises(TooLittleData, match="cross-validation needs 2 parts that have both labels"):
            calibrate(grouped, pooled, EASY)

    def test_groups_that_differ_by_case_are_one(self) -> None:
        """Explicit sides may not part them."""
        pairs, _ = made()
        parted = [
            replace(pair, group="gG"[row % 2] + str(row // 2), split=("fit", "held_out")[row % 2])
            for row, pair in enumerate(pairs)
        ]
        with pytest.raises(DataError, match="split parts the group"):
            split(parted, 0.5, np.ones(len(pairs), bool))


class TestBound:
    def test_pairs_of_one_group_count_once(self) -> None:
        """Twenty copies of a score are one: the bound holds for groups that are alike, where copies would break it."""
        draw = np.random.default_rng(5)
        violations = naive = 0
        for _ in range(200):
            scores = np.repeat(draw.normal(size=60), 20)
            groups = [f"g{index // 20}" for index in range(len(scores))]
            threshold = benign_threshold(scores, groups, Wanted(max_fpr=0.1))
            alone = benign_threshold(scores, [str(index) for index in range(len(scores))], Wanted(max_fpr=0.1))
            population = draw.normal(size=20_000)
            violations += (population > threshold.value).mean() > threshold.fpr_upper
            naive += (population > alone.value).mean() > alone.fpr_upper
        assert violations <= 20  # the 99.9 % quantile of Binomial(200, 0.05)
        assert naive > 40

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
    @pytest.mark.parametrize("centre", [-4.0, 0.0, 4.0])
    @pytest.mark.parametrize(("max_fpr", "force"), [(0.1, False), (0.001, True)], ids=["bounded", "forced"])
    def test_a_device_that_rounds_otherwise_flags_nobody_else(
        self, scale: float, centre: float, max_fpr: float, force: bool
    ) -> None:
        """Benign scores up to a millionth higher, of their size or of 1, exceed the threshold no more often than told.

        Nor is there more room than that between it and the score that set it.
        """
        scores = scale * np.random.default_rng(6).normal(centre, size=60)
        groups = [str(index) for index in range(len(scores))]
        found = benign_threshold(scores, groups, Wanted(max_fpr=max_fpr, force=force))
        room = 1e-6 * np.maximum(1, np.abs(scores))
        below = scores <= found.value
        setter = int(np.flatnonzero(below)[scores[below].argmax()])

        assert (scores > found.value).sum() == found.exceeding
        assert (scores + 0.9 * room > found.value).sum() == found.exceeding
        assert found.value <= scores[setter] + 1.1 * room[setter]


class TestCombination:
    def test_few_positives_do_not_make_it_worse_than_its_best_feature(self) -> None:
        """A feature that is always on knows the label; fifteen hundred rare ones that do not are not preferred to it."""
        draw = np.random.default_rng(0)
        labels = np.arange(900) % 25 < 1
        noise = draw.random((900, 1500)) * (draw.random((900, 1500)) < 0.03)
        known = np.maximum(0, 4 + draw.normal(size=(900, 1)) + 1.6 * labels[:, None])
        features = {MAX: csr_array(np.hstack([noise, known]).astype(np.float32))}
        fit, out = np.flatnonzero(np.arange(900) % 2 == 0), np.flatnonzero(np.arange(900) % 2)
        sides = [{MAX: features[MAX][rows]} for rows in (fit, out)]
        found = fit_combination(sides[0], labels[fit], grouped_folds(labels[fit], [str(row) for row in fit]))
        alone = roc_auc_score(labels[out], known[out, 0])
        assert alone > 0.8
        assert roc_auc_score(labels[out], found.scores(sides[1])) > alone - 0.05

    def test_labels_that_contradict_each_other_are_not_said_to_be_silence(self) -> None:
        """Every pair once with each label: features fire, and tell nothing apart; that is what is said."""
        half = csr_array(np.random.default_rng(0).random((60, 5)).astype(np.float32))
        features, labels = {MAX: csr_array(vstack([half, half]))}, np.arange(120) < 60
        folds = grouped_folds(labels, [str(row % 60) for row in range(120)])
        with pytest.raises(Unsupported, match="no signal: of 5 features and poolings none tells the labels apart"):
            fit_combination(features, labels, folds)

    def test_pairs_drawn_from_others_give_the_others_probabilities(self) -> None:
        """Fitted on as many positives as negatives, of which there are many more, probabilities are those of all."""
        pairs, pooled = made(4000, signal=1.0, seed=9)
        labels = np.array([pair.label for pair in pairs], bool) & (np.arange(4000) % 4 == 0)
        features = pooled.features(MAX)
        rows = np.concatenate([np.flatnonzero(labels), np.flatnonzero(~labels)[: labels.sum()]])
        folds = grouped_folds(labels[rows], [str(row) for row in rows])
        share = float(labels.mean())
        found = fit_combination({MAX: features[rows]}, labels[rows], folds, terms=2, share=share)
        assert abs((1 / (1 + np.exp(-found.scores({MAX: features})))).mean() - share) < 0.03

    def test_cross_validation_ranks_anew_in_every_fold(self) -> None:
        """On noise the cross-validated AUROC is chance's, though the best of 2,000 columns looks good on its own data."""
        draw = np.random.default_rng(1)
        features = {MAX: csr_array((draw.random((200, 2000)) * (draw.random((200, 2000)) < 0.2)).astype(np.float32))}
        labels = draw.random(200) < 0.5
        groups = [str(row) for row in range(200)]
        found = fit_combination(features, labels, grouped_folds(labels, groups), terms=16)
        assert abs(found.cv_auroc - 0.5) < 0.12
        assert roc_auc_score(labels, found.scores(features)) > 0.75

    @pytest.mark.parametrize("weights", ["free", "nonnegative"])
    def test_sources_with_other_shares_of_positives_leave_probabilities_right(self, weights: Weights) -> None:
        """Left out, a source is scored by a fit that expects another share; the log-odds are not flattened by that."""
        pairs, pooled = made(4000, signal=1.0, seed=4)
        labels = np.array([pair.label for pair in pairs], bool)
        draw = np.random.default_rng(44)
        sources = np.where(draw.random(4000) < np.where(labels, 0.8, 0.2), "a", "b")
        fit, out = slice(0, 2000), slice(2000, None)
        features = {pooling: pooled.features(pooling) for pooling in pooled.poolings}
        found = fit_combination(
            {pooling: matrix[fit] for pooling, matrix in features.items()},
            labels[fit],
            source_folds(labels[fit], sources[fit].tolist(), [pair.group for pair in pairs[fit]]),
            weights=weights,
        )
        scores = found.scores({pooling: matrix[out] for pooling, matrix in features.items()})
        assert calibration_error(labels[out], 1 / (1 + np.exp(-scores))) < 0.1

    def test_probabilities_are_those_of_the_labels(self) -> None:
        """Platt's map gives back the slope and intercept that the labels were drawn with."""
        draw = np.random.default_rng(2)
        scores = draw.normal(size=20_000)
        labels = draw.random(20_000) < 1 / (1 + np.exp(-(1.7 * scores - 0.6)))
        found = platt(scores, labels)
        assert (found.slope, found.intercept) == pytest.approx((1.7, -0.6), abs=0.06)


def labelled_file(folder: Path, n: int = 160, name: str = "train") -> Path:
    """Hedged sentences (1) and plain ones, each about something of its own."""
    draw = np.random.default_rng(3)
    rows = []
    for line in range(n):
        subject, thing = draw.choice(WORDS[:12], 2)
        number = int(draw.integers(10, 99))
        hedged = f"Perhaps the {subject} might possibly change the {thing} in {number} cases, we are not sure."
        plain = f"The {subject} changed the {thing} in {number} cases, as the table shows."
        rows.append({"prompt": "", "response": hedged if line % 2 else plain, "label": line % 2, "group": str(line)})
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrate")


@pytest.fixture(scope="module")
def data(folder: Path) -> Path:
    return labelled_file(folder)


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command line, in this process; pooled features are shared by the module's runs."""

    def run(*arguments: object) -> tuple[int, str, str]:
        work = ["--work-dir", str(folder / "work")] if arguments[0] == "calibrate" else []
        if work and "--fragility" not in arguments:
            work.append("--no-fragility")
        with pytest.raises(SystemExit) as left:
            main([*map(str, arguments), *work])
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return run


CALIBRATE = ("--indicator", "hedging", "--max-fpr", "0.2", "--force")


class TestCommand:
    def test_what_is_written_scores_as_it_was_measured(self, run: Callable, data: Path, folder: Path) -> None:
        """The online scorer gives the held-out pairs the AUROC, TPR and FPR of the card, which fits what runs."""
        out = folder / "first.yaml"
        code, told, _ = run("calibrate", data, *CALIBRATE, "--out", out, "--json")
        assert code == 0
        measured = json.loads(told)
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        joined = join_copies(PairsRead(_pairs(rows), Tally(len(rows))), "response").pairs
        held = [rows[row] for row in split(joined, 0.5, np.ones(len(rows), bool)).held_out]
        held_out = folder / "held_out.jsonl"
        held_out.write_text("".join(json.dumps(row) + "\n" for row in held))
        code, told, _ = run(
            "evaluate", held_out, "--watchlist", out, "--indicator", "hedging", "--json", "--no-baselines"
        )
        assert code == 0
        found = json.loads(told)
        assert found["calibrated"] is True
        assert found["card_warning"] == ""
        for name in ("n", "n_positive", "threshold"):
            assert found[name] == measured[name]
        for name in ("auroc", "tpr", "fpr", "ece"):
            assert found[name] == pytest.approx(measured[name], abs=1e-6), name
        card = load_watchlist(out).indicators[0].card
        assert card is not None
        assert card.measurements[0].auroc == round(measured["auroc"], 4)
        assert card.data[0].n == 160

    @pytest.mark.parametrize("made", [(), ("--combine", "hedging,mean_logprob"), ("--benign",)], ids=str)
    def test_rows_left_out_are_counted_on_the_card(
        self, run: Callable, data: Path, folder: Path, made: tuple[str, ...]
    ) -> None:
        """A row that cannot be read and one without text are in no number, and the card says so."""
        out, odd = folder / "odd.yaml", folder / "odd.jsonl"
        assert run("calibrate", data, *CALIBRATE, "--out", out)[0] == 0
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        texts = [*(json.dumps({"said": row.pop("response")} | row) for row in rows), "{", '{"label": 1, "said": ""}']
        odd.write_text("\n".join(texts))
        name = "confidence" if "--combine" in made else "hedging"
        flags = ("--indicator", name, "--max-fpr", 0.3, "--force", "--response-column", "said", "--json")
        code, told, error = run("calibrate", folder / "od[d].jsonl", *flags, *made, "--out", out)

        card = next(one for one in load_watchlist(out).indicators if one.name == name).card
        assert code == 3
        assert error.endswith("read 162 rows, used 160, left out 2: 1 unreadable, 1 no_text\n")
        assert {"unreadable": 1, "no_text": 1} == json.loads(told)["left_out"]
        assert card is not None
        read = (card.traffic or card.data)[0]
        assert ("odd.jsonl", 160) == (read.name, read.n)
        assert "2 of 162 rows were left out: 1 unreadable, 1 no_text." in card.note
        assert card.n + ("--benign" not in made) * card.measurements[0].n == 160

    @pytest.mark.parametrize("made", [(), ("--kind", "probe"), ("--combine", "hedging,mean_logprob")], ids=str)
    def test_a_card_says_how_fragile_it_is(
        self, run: Callable, data: Path, folder: Path, made: tuple[str, ...]
    ) -> None:
        """The pairs as they are have the card's own AUROC; text, JSON and file have one table; and the flag omits it."""
        out = folder / "fragile.yaml"
        assert run("calibrate", data, *CALIBRATE, "--terms", "2", "--poolings", "max,last", "--out", out)[0] == 0
        plain = load_watchlist(out).indicators[0]
        assert plain.card.fragility == ()
        assert {term.pooling.kind for term in plain.features} <= {"max", "last"}
        asked = (*CALIBRATE[2:], *made, "--indicator", "again", "--out", out, "--fragility")
        code, told, _ = run("calibrate", data, *asked, "--json")
        assert code == 0
        card = load_watchlist(out).indicators[1].card
        rows = {row.change: row for row in card.fragility}
        assert json.loads(told)["fragility"] == [row.model_dump(mode="json") for row in card.fragility]
        assert rows["as they are"].auroc == card.measurements[0].auroc
        assert rows["as they are"].n == card.measurements[0].n
        assert {
            "upper case",
            "no punctuation",
            "reader's weights in int8",
            "reader's weights in bfloat16",
        } <= rows.keys()
        assert all(0 <= row.survival <= 1 for row in rows.values() if row.change != "as they are")

    def test_an_indicator_is_added_to_a_watchlist_or_replaced(self, run: Callable, data: Path, folder: Path) -> None:
        """Others in the file stay as they are, comments too; one of the same name gives way."""
        out = folder / "grown.yaml"
        assert run("calibrate", data, *CALIBRATE, "--out", out)[0] == 0
        out.write_text(
            out.read_text(encoding="utf-8").replace("indicators:", "# Ours; ask Mia before changing.\nindicators:")
        )
        before = load_watchlist(out).indicators[0]
        again = ("--indicator", "second", "--max-fpr", "0.3", "--force", "--terms", "2")
        assert run("calibrate", data, *again, "--out", out)[0] == 0
        assert run("calibrate", data, *again[:-1], "1", "--severity", "info", "--out", out)[0] == 0
        first, second = load_watchlist(out).indicators
        assert first == before
        assert (second.name, second.severity, len(second.features)) == ("second", "info", 1)
        assert "# Ours; ask Mia before changing." in out.read_text(encoding="utf-8")

    def test_a_probe_is_scored_by_the_engine(self, run: Callable, data: Path, folder: Path) -> None:
        """The online scorer gives a written probe the AUROC it was measured with, on the held-out pairs."""
        out = folder / "probe.yaml"
        code, told, _ = run("calibrate", data, *CALIBRATE, "--kind", "probe", "--out", out, "--json")
        assert code == 0
        measured = json.loads(told)
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        held_out = folder / "probe_held_out.jsonl"
        rows = [rows[row] for row in split(_pairs(rows), 0.5, np.ones(len(rows), bool)).held_out]
        held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
        arguments = ("--watchlist", out, "--indicator", "hedging", "--json", "--no-baselines")
        found = json.loads(run("evaluate", held_out, *arguments)[1])
        assert found["calibrated"] is True
        assert found["auroc"] == pytest.approx(measured["auroc"], abs=1e-6)
        assert found["tpr"] == pytest.approx(measured["tpr"], abs=0.03)

    def test_a_combination_reads_what_the_reader_expected(self, run: Callable, data: Path, folder: Path) -> None:
        """Indicators and signals are weighed, measured beside each of them, and scored online with the same AUROC."""
        out = folder / "combined.yaml"
        assert run("calibrate", data, *CALIBRATE, "--out", out)[0] == 0
        parts = ",".join(["hedging", *SIGNALS])
        code, told, error = run(
            "calibrate", data, "--indicator", "confidence", "--combine", parts, "--flip-labels", "--max-fpr", 0.2,
            "--severity", "info", "--force", "--out", out, "--json",
        )  # fmt: skip
        assert (code, error) == (0, "")
        measured = json.loads(told)
        assert {"hedging", *SIGNALS} <= set(measured["baselines"])
        confidence = load_watchlist(out).indicators[1]
        assert {"hedging", *SIGNALS} == {term.name for term in confidence.combines}
        assert (confidence.kind, confidence.severity) == ("combination", "info")
        arguments = ("--watchlist", out, "--indicator", "confidence", "--json", "--no-baselines")
        found = json.loads(run("evaluate", data, *arguments)[1])
        # Its labels are the other way round.
        assert found["auroc"] < 0.2
        assert found["calibrated"] is True

    def test_benign_traffic_alone_sets_a_threshold(self, run: Callable, data: Path, folder: Path) -> None:
        """The threshold keeps the rate on the traffic given; what labelled pairs said stays, but for the former rates."""
        out, traffic = folder / "benign.yaml", folder / "traffic.jsonl"
        assert run("calibrate", data, *CALIBRATE, "--out", out)[0] == 0
        former = load_watchlist(out).indicators[0].card
        assert former is not None
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        traffic.write_text(
            "".join(json.dumps({"response": row["response"]}) + "\n" for row in rows if not row["label"])
        )
        code, told, _ = run(
            "calibrate", traffic, "--indicator", "hedging", "--benign", "--max-fpr", 0.05, "--out", out, "--json"
        )
        assert code == 0
        document = json.loads(told)
        indicator = load_watchlist(out).indicators[0]
        assert indicator.card is not None
        assert indicator.threshold == document["threshold"]
        measurement = indicator.card.measurements[0]
        assert measurement.auroc is None
        assert measurement.fpr is not None
        assert measurement.fpr <= document["fpr_upper"] <= 0.05
        ranked = indicator.card.measurements[1]
        assert (former.measurements[0].auroc, None, None) == (ranked.auroc, ranked.tpr, ranked.fpr_upper)
        assert (former.data, former.n, ["traffic.jsonl"]) == (
            *(indicator.card.data, indicator.card.n),
            [file.name for file in indicator.card.traffic],
        )
        assert indicator.card.calibrated_on.count("threshold by") == 1
        again = ("--indicator", "hedging", "--benign", "--max-fpr", 0.05, "--out", out)
        assert run("calibrate", traffic, *again)[0] == 0
        assert load_watchlist(out).indicators[0].card == indicator.card
        assert "was fitted on this file" in run("calibrate", data, *again)[2]

    def test_a_refusal_leaves_no_watchlist(self, run: Callable, data: Path, folder: Path) -> None:
        """Shuffled labels: one sentence, exit code 2, no file."""
        rows = [json.loads(line) for line in data.read_text().splitlines()]
        labels = np.random.default_rng(0).permutation([row["label"] for row in rows]).tolist()
        file, out = folder / "shuffled.jsonl", folder / "none.yaml"
        file.write_text(
            "".join(json.dumps(row | {"label": label}) + "\n" for row, label in zip(rows, labels, strict=True))
        )
        code, told, error = run("calibrate", file, *CALIBRATE, "--out", out)
        assert (code, told, out.exists()) == (2, "", False)
        assert error.startswith("scopewatch: no signal: AUROC ")

    def test_the_report_is_a_page(self, run: Callable, data: Path, folder: Path) -> None:
        """The page shows every detector and the card."""
        page, out = folder / "report.html", folder / "page.yaml"
        assert run("calibrate", data, *CALIBRATE, "--out", out, "--html", page)[0] == 0
        text = page.read_text(encoding="utf-8")
        assert all(word in text for word in ("bag_of_words", "random_features", "<svg", "hedging"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--max-fpr", "1"), "expected a share between 0 and 1"),
            (("--terms", "0"), "expected auto or a number from 1 to 512"),
            (("--combine", "nothing"), "there is no 'nothing' to combine; there are: speculation, bias, "),
            (("--combine", "mean_logprobs"), "mean_logprob, mean_entropy, "),
            (("--kind", "words", "--lexicon", " "), "argument --lexicon: expected"),
            (("--benign", "--combine", "speculation"), "leave --combine out"),
            (("--combine", "bias,mean_logprob", "--across-sources"), "--across-sources: is for --kind features; leave"),
            (("--poolings", "mean,median"), "--poolings: expected one of max, mean, sum, "),
            (("--kind", "probe", "--terms", "8"), "--terms: is for --kind features; leave it out with --kind probe"),
            (("--kind", "words", "--reader", "x"), "leave it out with --kind words, which takes the reader of --watch"),
            (("--benign", "--sae-name", "x"), "--sae-name: is for --kind features and --kind probe; leave it out with"),
            (("--reader", "/nowhere"), "--reader: say with --sae which SAE was made for it"),
            (("--sae", "/nowhere", "--force"), "/nowhere"),
            (("--watchlist", "/nowhere.yaml"), "/nowhere.yaml: cannot be read"),
            (("--indicator", "a b"), "'a b': expected a letter, then"),
            (("--sae-name", "1st"), "'1st': expected a letter, then"),
            (("--label", "x" * 201), "--label: String should have at most 200 characters"),
            (("--html", "/nowhere/page.html"), "/nowhere/page.html: there is no folder /nowhere"),
            (("--out", "/tmp/my watchlist.yaml"), "--out: 'my watchlist': expected a letter"),
            (("--max-fpr", "0.001"), "0.001 needs at least 2995"),
            (("--benign",), "has no 'x', whose threshold --benign sets"),
            (("--indicator", "speculation", "--combine", "speculation,mean_logprob"), "cannot be made of itself"),
            (("--combine", "speculation,mean_logprob"), "a combination stands beside its parts"),
        ],
    )
    def test_wrong_arguments_are_named(
        self, run: Callable, data: Path, folder: Path, arguments: tuple[str, ...], message: str
    ) -> None:
        """The message names the argument and the mend, before anything is read by the reader or written."""
        code, _, error = run("calibrate", data, "--indicator", "x", "--out", folder / "wrong.yaml", *arguments)
        assert code == 2
        assert not (folder / "wrong.yaml").exists()
        assert "reading" not in error
        assert message in error
        assert "Traceback" not in error

    def test_data_are_not_written_over(self, run: Callable, data: Path) -> None:
        """An --out that is a data file is refused, and the file stays."""
        before = data.read_bytes()
        code, _, error = run("calibrate", data, "--indicator", "x", "--out", data)
        assert (code, data.read_bytes()) == (2, before)
        assert "is named twice" in error

    @pytest.mark.parametrize("missing", ["sklearn", "scipy", "ruamel.yaml"])
    def test_without_the_extra_it_is_named(self, data: Path, tmp_path: Path, missing: str) -> None:
        """One sentence with what to install, whichever package is missing."""
        command = ["calibrate", str(data), "--indicator", "x", "--out", str(tmp_path / "out.yaml")]
        code = f"import sys; sys.modules[{missing!r}] = None; from scopewatch.cli import main; main({command!r})"
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert ran.returncode == 2
        assert ran.stderr.count("\n") == 1
        assert "pip install 'scopewatch[calibration]'" in ran.stderr


def _pairs(rows: Sequence[dict]) -> list[LabelledPair]:
    return [LabelledPair(Pair("", row["response"]), row["label"], line, row["group"]) for line, row in enumerate(rows)]
