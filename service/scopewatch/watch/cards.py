"""Cards: the evidence for an indicator's threshold, as a watchlist holds it."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from scopewatch.identity import EngineIdentity
from scopewatch.sources import Several, Strict
from scopewatch.watch.reference import Reference

Rate = Annotated[float, Field(ge=0, le=1)]
Lead = Annotated[float, Field(ge=-1, le=1)]
Beside = Literal["better", "undecided", "worse"]
"""How one detector does beside another, by the interval of the difference of their AUROCs: above 0, around 0, below."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Measurement(Strict):
    """How an indicator did on pairs that its calibration did not fit."""

    data: str = Field(min_length=1)
    n: int = Field(ge=1)
    n_positive: int = Field(ge=0)
    """0 where the pairs have no labels: benign traffic, of which only the false positives can be known."""
    auroc: Rate | None = None
    auroc_low: Rate | None = None
    """Lower end of the AUROC's 95 % interval, by a bootstrap over groups; `auroc_high` is the upper."""
    auroc_high: Rate | None = None
    tpr: Rate | None = None
    fpr: Rate | None = None
    """Share of all pairs of label 0 that is flagged."""
    fpr_groups: Rate | None = None
    """Likewise, of one pair drawn from each group."""
    fpr_upper: Rate | None = None
    """Upper bound of `fpr_groups`, at the card's confidence: pairs of one group are not independent."""
    ece: Rate | None = None
    """Expected calibration error of the probability, ten bins."""
    baselines: dict[str, Rate] = Field(default_factory=dict)
    """AUROC of other detectors on the same pairs."""


class DataFile(Strict):
    """A file that a calibration read."""

    name: str
    sha256: Sha256
    n: int = Field(ge=1)
    n_positive: int = Field(ge=0)


class MadeWith(Strict):
    """What ran when a card's numbers were made; with anything else the numbers would be others."""

    scopewatch: str
    reader: str
    reader_revision: str = ""
    reader_digest: Sha256
    """Digest of the reader's layers that ran."""
    dtype: str
    template_digest: str = ""
    """Digest of the chat template; empty where none was used."""
    rendering_digest: str = ""
    """Digest of all that decided what was read but the texts."""
    saes: dict[str, str] = Field(default_factory=dict)
    """Digest of each SAE or probe, by its name in the watchlist."""
    words: dict[str, str] = Field(default_factory=dict)
    """Digest of each lexicon or bag of words, by the name of the indicator that counts by it."""


class BeyondWords(Strict):
    """What an indicator adds to words, on held-out pairs; ends of intervals are those of 95 %, drawn over groups."""

    words: str
    """The detector of words: the one that ranks these pairs best."""
    together: Rate
    """AUROC of the sum of both, each on the scale of its standard deviation."""
    over_words: Lead
    """AUROC of both together less that of the words alone."""
    over_words_low: Lead
    over_words_high: Lead
    over_own: Lead
    """AUROC of both together less that of the indicator alone."""
    over_own_low: Lead
    over_own_high: Lead

    def __str__(self) -> str:
        return (
            f"Together with {self.words}, at equal weights, its AUROC is {self.together:.3f}: "
            f"{self.over_words:+.3f} ({self.over_words_low:+.3f} to {self.over_words_high:+.3f}) over the words alone, "
            f"{self.over_own:+.3f} ({self.over_own_low:+.3f} to {self.over_own_high:+.3f}) over itself alone."
        )


class Fragility(Strict):
    """How an indicator did where something was changed that it should not depend on."""

    change: str = Field(min_length=1)
    n: int = Field(ge=1)
    auroc: Rate
    survival: Rate | None = None
    """The share of its features that correlate above 0.9 with what they were; None where nothing was read again."""


class AlsoMeasured(Strict):
    """What the pairs of a card showed at the same threshold where the reader computed in another dtype."""

    dtype: str = Field(min_length=1)
    device: str = Field(min_length=1)
    """The kind of device that computed: cpu, cuda."""
    date: str
    scopewatch: str
    """The version of this program."""
    n: int = Field(ge=1)
    """The number of pairs that were scored in both dtypes."""
    flags_changed: int = Field(ge=0)
    """The number of these that are flagged in one of both dtypes and not in the other."""
    measurements: Several[Measurement] = Field(min_length=1)
    """The rows of the card's own measurements, without other detectors, which are not measured again."""
    digest: Sha256
    """Of these figures and of all that they are of, as `watch.figures_digest` makes it."""


class Card(Strict):
    """Evidence for a threshold: what it was calibrated on and with, and what was measured elsewhere."""

    date: str
    calibrated_on: str = Field(min_length=1)
    n: int = Field(ge=1)
    data: Several[DataFile] = ()
    traffic: Several[DataFile] = ()
    """Benign traffic that set the threshold after the indicator was calibrated; empty where held-out pairs did."""
    max_fpr: Rate | None = None
    """The false-positive rate that was asked for."""
    confidence: Rate | None = None
    """The confidence of the bound `fpr_upper`."""
    measurements: Several[Measurement] = Field(min_length=1)
    beats_bag_of_words: bool | None = None
    """Whether its AUROC on held-out pairs is clearly above a bag of words'; None where there are no labels."""
    beside_bag_of_words: Literal["", "better", "undecided", "worse"] = ""
    """How it does beside a bag of words; empty where there are no labels, and in cards that were written before."""
    beyond_words: BeyondWords | None = None
    """What it adds to words; None where that was not measured."""
    leaks: Several[str] = ()
    """Properties of the data that give the label away without any reading."""
    made_with: MadeWith | None = None
    fragility: Several[Fragility] = ()
    """Held-out pairs as they are, and then with one thing changed at a time; empty where that was not measured."""
    stands_on: str = ""
    """The one word without which the AUROC loses more than half of its way above chance; empty if there is none."""
    note: str = ""
    reference: Reference | None = None
    """Where the benign pairs lie; None where nobody asked for it."""
    # Not in its repr, by which judgements are told apart: it decides none, and most cards have none.
    also_measured: Several[AlsoMeasured] = Field((), repr=False)
    """The same pairs in other dtypes than `made_with` says, one entry each."""
    _measured_in: AlsoMeasured | None = PrivateAttr(None)

    @field_validator("also_measured")
    @classmethod
    def _is_of_the_same_pairs(cls, value: tuple[AlsoMeasured, ...], info: ValidationInfo) -> tuple[AlsoMeasured, ...]:
        made: MadeWith | None = info.data.get("made_with")
        own = [(row.data, row.n, row.n_positive) for row in info.data.get("measurements", ())]
        if value and made is None:
            raise ValueError("a card that does not say what it was made with has no other dtypes beside")
        dtypes = [made.dtype] if made else []
        for one in value:
            if one.dtype in dtypes:
                raise ValueError(f"{one.dtype} stands twice: once is enough, and the card's own need not be repeated")
            dtypes.append(one.dtype)
            if [(row.data, row.n, row.n_positive) for row in one.measurements] != own:
                raise ValueError(f"{one.dtype} was measured on other pairs than the card's measurements say")
            if one.flags_changed > one.n:
                raise ValueError(f"{one.dtype}: flags_changed is {one.flags_changed}, of {one.n} pairs")
        return value

    @property
    def measured_in(self) -> AlsoMeasured | None:
        """The entry of `also_measured` that `measurements` are of; None where they are what the card was made with."""
        return self._measured_in

    def with_figures(self, figures: AlsoMeasured) -> Self:
        """The card with figures in another dtype, in place of those that it had for that one."""
        others = [one for one in self.also_measured if one.dtype != figures.dtype]
        return self.model_copy(update={"also_measured": (*others, figures)})

    def in_dtype(self, dtype: str) -> Self:
        """The card with the figures of what runs in a dtype; as it is where it knows no others for that dtype."""
        found = next((one for one in self.also_measured if one.dtype == dtype), None)
        if found is None:
            return self
        card = self.model_copy(update={"measurements": found.measurements})
        card._measured_in = found  # noqa: SLF001 - of its own class
        return card

    @property
    def binned(self) -> bool:
        """Whether it keeps bins of benign pairs, for traffic to be held against."""
        return bool(self.reference and self.reference.score_bins)

    @property
    def benign_flag_ratio(self) -> float | None:
        """The share of the benign pairs that set the threshold which is flagged; None where that was not measured."""
        # Where traffic set the threshold, the bound stands in another row than the AUROC.
        for measured in self.measurements:
            if measured.fpr_upper is not None:
                return measured.fpr if measured.fpr_groups is None else measured.fpr_groups
        return next((measured.fpr for measured in self.measurements if measured.fpr is not None), None)

    def problem(
        self,
        saes: Iterable[str],
        running: EngineIdentity,
        words: Mapping[str, str] | None = None,
        *,
        needs_weights: bool = True,
        as_made: bool = False,
    ) -> str:
        """Why the card does not speak for what runs; empty when it does.

        Args:
            saes: Names of the SAEs that the card's indicator reads.
            running: The reader and the SAEs that run.
            words: Digests of the lexicons and bags that the card's indicator counts by, by the indicator's name.
            needs_weights: Whether the indicator needs the reader's weights; words and characters are counted without.
            as_made: Whether only the dtype counts that the card was made in, and none that was measured beside.
        """
        made, reader = self.made_with, running.reader
        if made is None:
            return "the card does not say with which reader and SAE it was made"
        digests = {sae.name: sae.digest for sae in running.saes}
        found = []
        if needs_weights and made.reader_digest not in {reader.digest, *reader.layer_digests}:
            found.append(f"reader {made.reader} (other weights than the running {reader.name})")
        dtypes = [made.dtype, *(one.dtype for one in self.also_measured if not as_made)]
        if needs_weights and reader.dtype not in dtypes:
            found.append(f"dtype {' or '.join(dtypes)} (running: {reader.dtype})")
        if made.template_digest != reader.template_digest:
            found.append("another chat template")
        elif made.rendering_digest != reader.rendering_digest:
            found.append("another rendering of the texts (tokenizer, date, tools or other settings of the reader)")
        found += [f"another SAE than the running {name!r}" for name in saes if made.saes.get(name) != digests.get(name)]
        found += [
            f"other words than {name!r} counts"
            for name, digest in (words or {}).items()
            if made.words.get(name) != digest
        ]
        return "the card was made with " + ", ".join(found) if found else ""
