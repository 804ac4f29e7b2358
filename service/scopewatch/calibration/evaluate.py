"""The recipe for measuring an indicator of a watchlist on labelled pairs, beside simple detectors."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scopewatch.app.spine import offline
from scopewatch.calibration.baselines import measure_baselines
from scopewatch.calibration.evaluation import Evaluation, evaluate
from scopewatch.calibration.evaluation_report import as_page, as_text
from scopewatch.calibration.wrong_pairs import Mistakes, mistakes_of, with_spans
from scopewatch.calibration.wrong_pairs_tables import tables_for_terminal, tables_of
from scopewatch.config import Config
from scopewatch.errors import DataError
from scopewatch.pairs.copies import join_copies, without_copies
from scopewatch.pairs.data_files import PairsRead, Reading, check_both_labels, read_pairs
from scopewatch.pairs.labelled import LabelledPair, labels_of
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.scored import ScoredPairs, score_pairs
from scopewatch.report.figures import plot
from scopewatch.statistics.scores import Bool, Scores
from scopewatch.watch.indicators import Indicator
from scopewatch.watch.watchlist import Watchlist


@dataclass(frozen=True, slots=True)
class MeasuredIndicator:
    """An evaluation and the scores that it was made of, which figures show."""

    indicator: Indicator
    """As it runs: its card has the figures of the dtype that ran, where it knows them."""
    evaluation: Evaluation
    data: tuple[str, ...]
    """The names of the data files."""
    labels: Bool
    detectors: Mapping[str, Scores]
    """The scores of the pairs by the indicator, and then by the baselines, by name."""
    thresholds: Scores
    """The threshold that each pair was held against."""
    tally: Tally
    """How many rows of the data were read, and what was left out of them."""
    train_tally: Tally
    """Likewise, of the files that the baselines learn from."""
    mistakes: Mistakes
    """The pairs that the indicator gets most wrong."""
    shows_texts: bool
    """Whether the texts of these pairs are shown."""

    def text(self) -> str:
        """The evaluation for a terminal."""
        judged = self.indicator.read_segment
        return as_text(self.evaluation, tables_for_terminal(self.mistakes, judged, texts=self.shows_texts))

    def document(self) -> dict[str, object]:
        """The evaluation as `evaluate --json` prints it."""
        return self.evaluation.document() | self.mistakes.document()

    def page(self) -> str:
        """The evaluation as one HTML page with figures."""
        return as_page(
            self.evaluation,
            self.data,
            self.labels,
            self.detectors,
            thresholds=self.thresholds,
            mistakes=tables_of(self.mistakes, self.indicator.read_segment, texts=self.shows_texts),
            card=self.indicator.card,
        )

    def plot(self) -> str:
        """The ROC curves and the distributions of the indicator's scores, as SVG."""
        return plot(self.labels, self.detectors, self.thresholds)


def evaluate_indicator(
    watchlist: Watchlist,
    name: str,
    data: Sequence[Path],
    config: Config,
    *,
    train: Sequence[Path] = (),
    baselines: bool = True,
    texts: bool = True,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> MeasuredIndicator:
    """Scores labelled pairs with the online scorer, and compares the scores with the labels.

    Args:
        watchlist: The only watchlist of the settings.
        name: The name of the indicator.
        data: The files that hold the pairs.
        config: Settings of the engine.
        train: Files whose pairs the baselines learn from; without any they are cross-fitted on the data.
        baselines: Whether simple detectors are measured on the same pairs.
        texts: Whether the texts of pairs that it gets wrong are shown.
        reading: How the files are read.

    Raises:
        DataError: There is no such indicator, or a file is wrong or too small.
    """
    indicator = _indicator(watchlist, name)
    read = join_copies(read_pairs(*data, reading=reading), indicator.segment)
    train_read = PairsRead([], Tally())
    if train and baselines:
        train_read = without_copies(read_pairs(*train, reading=reading), read.pairs, indicator.segment)
    heard = asyncio.run(_score(read.pairs, indicator, config, reading, texts=texts))
    indicator, scored = heard.indicator, heard.scored
    pairs, tally = scored.pairs, read.tally.without(scored.left_out).need(name)
    check_both_labels(pairs, f"{name}, of {tally.read} rows read", tally)
    rivals = measure_baselines(watchlist, indicator, pairs, train_read.pairs, config) if baselines else None
    own = scored.by_indicator[name]
    return MeasuredIndicator(
        indicator=indicator,
        evaluation=evaluate(pairs, own, rivals, tally, is_words=indicator.kind == "words", card=indicator.card),
        data=tuple(file.name for file in data),
        labels=labels_of(pairs),
        detectors={name: own.scores} | dict(rivals.scores if rivals else {}),
        thresholds=own.thresholds,
        tally=tally,
        train_tally=train_read.tally,
        mistakes=heard.mistakes,
        shows_texts=texts,
    )


def _indicator(watchlist: Watchlist, name: str) -> Indicator:
    indicator = next((one for one in watchlist.indicators if one.name == name), None)
    if indicator is None:
        known = ", ".join(one.name for one in watchlist.indicators)
        raise DataError(f"indicator {name!r}: watchlist {watchlist.name} has {known}")
    return indicator


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the online scorer says of pairs."""

    indicator: Indicator
    """As it runs."""
    scored: ScoredPairs
    mistakes: Mistakes
    """The pairs that it gets most wrong, with the words on which it fired if texts are shown."""


async def _score(
    pairs: Sequence[LabelledPair], indicator: Indicator, config: Config, reading: Reading, *, texts: bool
) -> _Heard:
    name = indicator.name
    async with offline(config) as monitor:
        watchlist = monitor.watchlists.sources[0]
        scored = await score_pairs(
            pairs, [name], watchlist.name, monitor.score, at_once=config.at_once, reading=reading
        )
        mistakes = mistakes_of(scored.pairs, scored.by_indicator[name]) if scored.pairs else Mistakes()
        if texts:
            mistakes = await with_spans(mistakes, indicator, watchlist.name, monitor.score)
        return _Heard(_indicator(watchlist, name), scored, mistakes)
