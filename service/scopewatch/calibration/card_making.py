"""Cards of calibrated indicators."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import scopewatch
from scopewatch.calibration.evidence import HeldOutEvidence
from scopewatch.calibration.fragility.table import Table
from scopewatch.calibration.request import Request
from scopewatch.calibration.wanted import Wanted
from scopewatch.identity import EngineIdentity
from scopewatch.pairs.labelled import LabelledPair
from scopewatch.pairs.left_out import Tally
from scopewatch.pairs.rows import digest_of
from scopewatch.statistics.bounds import Threshold
from scopewatch.statistics.ranking import auroc
from scopewatch.watch.cards import Card, DataFile, MadeWith, Measurement
from scopewatch.watch.reference import Reference
from scopewatch.words.bag import Bag
from scopewatch.words.lexicon import Lexicon

_SET_BY = "; threshold by "
OF_SOURCE = "of these, "
"""How the row begins that is of the held-out pairs of one source, whose name follows."""
_BENIGN_NOTE = "Only false positives were measured: nothing is known of what it finds or misses."


def data_files(request: Request, used: Sequence[LabelledPair]) -> tuple[DataFile, ...]:
    """What a card says of the request's data files, given the pairs that were used of all of them."""
    label = 0 if request.flip_labels else 1
    held = [(file, [pair for pair in used if pair.file == str(file)]) for file in request.data]
    return tuple(
        DataFile(
            name=file.name,
            sha256=digest_of(file),
            n=len(mine),
            n_positive=sum(pair.label == label for pair in mine),
        )
        for file, mine in held
        if mine
    )


def made_with(
    running: EngineIdentity, saes: Mapping[str, str], words: Mapping[str, Lexicon | Bag] | None = None
) -> MadeWith:
    """What a card says of the reader and the SAEs that scored the pairs.

    Args:
        running: The reader, as it ran.
        saes: The digest of each SAE or probe that the indicator reads, by its name in the watchlist.
        words: The lexicons and bags that it counts by, by the name of the indicator that does.
    """
    reader = running.reader
    return MadeWith(
        scopewatch=scopewatch.__version__,
        reader=reader.name,
        reader_revision=reader.revision,
        reader_digest=reader.digest,
        dtype=reader.dtype,
        template_digest=reader.template_digest,
        rendering_digest=reader.rendering_digest,
        saes=dict(saes),
        words={name: counts_by.digest for name, counts_by in (words or {}).items()},
    )


def labelled_card(
    evidence: HeldOutEvidence,
    wanted: Wanted,
    files: tuple[DataFile, ...],
    made: MadeWith,
    *,
    date: str,
    tally: Tally,
    reference: Reference,
    fragility: Table | None = None,
) -> Card:
    """The card of an indicator that was calibrated on labelled pairs.

    Args:
        evidence: What the held-out pairs say of it.
        wanted: What was asked for.
        files: The files that hold the pairs.
        made: What scored the pairs.
        date: The day, in ISO 8601.
        tally: What was left out of the files.
        reference: Where the held-out benign pairs lie.
        fragility: What is left of it under changes; None where that was not measured.
    """
    names, benign = ", ".join(file.name for file in files), evidence.threshold.n
    return Card(
        date=date,
        calibrated_on=f"{names}: the other groups{_SET_BY}{benign} held-out benign pairs, one a group",
        n=evidence.n_fit,
        data=files,
        max_fpr=wanted.max_fpr,
        confidence=wanted.confidence,
        measurements=(_held_out(evidence, names), *_by_source(evidence)),
        beats_bag_of_words=evidence.beside_words == "better",
        beside_bag_of_words=evidence.beside_words,
        beyond_words=evidence.beyond_words,
        leaks=evidence.leaks,
        made_with=made,
        fragility=fragility.rows if fragility else (),
        stands_on=fragility.stands_on if fragility else "",
        note=" ".join([*evidence.conclusions, *tally.sentences]),
        reference=reference,
    )


def _held_out(evidence: HeldOutEvidence, names: str) -> Measurement:
    """The row of all held-out pairs, given the files' names."""
    return Measurement(
        data=f"{names}: the groups held out",
        n=len(evidence.labels),
        n_positive=int(evidence.labels.sum()),
        auroc=rounded(evidence.auroc.value),
        auroc_low=rounded(evidence.auroc.low),
        auroc_high=rounded(evidence.auroc.high),
        tpr=rounded(evidence.tpr),
        fpr=rounded(evidence.fpr),
        fpr_groups=rounded(evidence.threshold.fpr),
        fpr_upper=rounded(evidence.threshold.fpr_upper),
        ece=rounded(evidence.ece),
        baselines={name: rounded(detector.auroc.value) for name, detector in evidence.alternatives.items()},
    )


def _by_source(evidence: HeldOutEvidence) -> Iterator[Measurement]:
    """A row for every source that has both labels, if there are several sources."""
    sources = np.array(evidence.sources, dtype=object)
    flagged = evidence.flagged
    for source, found in evidence.by_source.items():
        mine = sources == source
        labels = evidence.labels[mine]
        yield Measurement(
            data=f"{OF_SOURCE}{source}",
            n=len(labels),
            n_positive=int(labels.sum()),
            auroc=rounded(found.value),
            auroc_low=rounded(found.low),
            auroc_high=rounded(found.high),
            tpr=rounded(float(flagged[mine][labels].mean())),
            fpr=rounded(float(flagged[mine][~labels].mean())),
            baselines={name: rounded(auroc(labels, each.scores[mine])) for name, each in evidence.alternatives.items()},
        )


def benign_card(
    threshold: Threshold,
    wanted: Wanted,
    files: tuple[DataFile, ...],
    made: MadeWith,
    *,
    date: str,
    fpr: float,
    tally: Tally,
    reference: Reference,
    former: Card | None = None,
) -> Card:
    """The card of a threshold that benign traffic set.

    What labelled pairs said of the indicator stays, save its rates at the threshold that it had, where the former card
    was made with what scored the traffic.

    Args:
        threshold: The threshold with its bound.
        wanted: What was asked for.
        files: The files that hold the traffic.
        made: What scored the traffic.
        date: The day, in ISO 8601.
        fpr: The share of all pairs that score above the threshold.
        tally: What was left out of the files.
        reference: Where the traffic lies.
        former: The card that the indicator had; None where it had none.
    """
    names, n = ", ".join(file.name for file in files), sum(file.n for file in files)
    seen = Measurement(
        data=f"{names}: benign traffic, not labelled",
        n=n,
        n_positive=0,
        fpr=rounded(fpr),
        fpr_groups=rounded(threshold.fpr),
        fpr_upper=rounded(threshold.fpr_upper),
    )
    if former and _is_of_labelled_pairs(former, made):
        rates = dict.fromkeys(("tpr", "fpr", "fpr_groups", "fpr_upper"))
        ranked = [one.model_copy(update=rates) for one in former.measurements if one.n_positive]
        what = former.calibrated_on.rpartition(_SET_BY)[0] or former.calibrated_on
        return former.model_copy(
            update={
                "date": date,
                "calibrated_on": f"{what}{_SET_BY}{threshold.n} benign pairs of {names}, one a group",
                "traffic": files,
                "max_fpr": wanted.max_fpr,
                "confidence": wanted.confidence,
                "measurements": (seen, *ranked),
                "made_with": made,
                "reference": reference,
                "also_measured": (),
                "note": " ".join([former.note, *(said for said in tally.sentences if said not in former.note)]).strip(),
            }
        )
    return Card(
        date=date,
        calibrated_on=f"{names}: threshold by {threshold.n} benign pairs, one a group",
        n=n,
        data=files,
        max_fpr=wanted.max_fpr,
        confidence=wanted.confidence,
        measurements=(seen,),
        made_with=made,
        note=" ".join([_BENIGN_NOTE, *tally.sentences]),
        reference=reference,
    )


def _is_of_labelled_pairs(card: Card, made: MadeWith) -> bool:
    """Whether labelled pairs made a card, with what now runs, by whatever version of this program."""
    if card.beats_bag_of_words is None or card.made_with is None:
        return False
    return card.made_with == made.model_copy(update={"scopewatch": card.made_with.scopewatch})


def rounded(value: float) -> float:
    """A figure as cards keep it: with four decimals."""
    return round(value, 4)
