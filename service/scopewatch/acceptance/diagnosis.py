"""Judges what was measured of an SAE: whether the numbers are right, and if not, which mistake they look like."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scopewatch.acceptance.alternatives import Alternative, FeatureOrder, Place
from scopewatch.acceptance.golden import Agreement
from scopewatch.acceptance.reconstruction import Geometry, ReconstructionQuality
from scopewatch.sae.weights import Sae

L0_TOLERANCE = 0.25
"""How far mean L0 may be from the declared L0, as a share of that."""
FVU_LIMIT = 0.6
"""The FVU from which a reconstruction is taken to be wrong: a rule of thumb. Measured at the right place: 0.26 for an
MLP output SAE of Gemma Scope, 0.50 for a transcoder; at wrong ones 6 and more. Residual streams leave about 0.1 to 0.4.
"""
NORM_TOLERANCE = 0.02
"""How far norms of decoder rows may be from a promised 1."""
_NOISE = 0.005
"""Differences in FVU below this say nothing."""

AcceptanceVerdict = Literal["ok", "suspect", "wrong"]


@dataclass(frozen=True, slots=True)
class Tried:
    """An alternative way to run the SAE, and how well the SAE reconstructs that way."""

    alternative: Alternative
    measured: ReconstructionQuality


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was measured of one SAE, for `diagnose` to judge."""

    sae: Sae
    place: Place
    """Where it reads and writes."""
    measured: ReconstructionQuality
    """How well it reconstructs, on all tokens that count."""
    geometry: Geometry
    """Norms and directions of its dictionary."""
    sampled: ReconstructionQuality
    """Like `measured`, but only on the tokens that alternatives are tried on."""
    golden: Agreement | None = None
    """How it agrees with exported activations; None if there is no export."""
    tried: Sequence[Tried] = ()
    """The alternatives that were measured."""
    order: FeatureOrder | None = None
    """How encoder columns and decoder rows match; None if this was not looked at."""

    @property
    def best(self) -> Tried | None:
        """The alternative that fits best, if any fits and explains clearly more than the SAE as it is."""
        found = [
            one
            for one in self.tried
            if fits(one.alternative.sae, one.measured)
            and one.measured.fvu <= one.alternative.at_most * self.sampled.fvu - _NOISE
        ]
        return min(found, key=lambda one: one.measured.fvu, default=None)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The conclusion on one SAE."""

    verdict: AcceptanceVerdict
    finding: str
    """What was found, in one sentence."""


def expected_l0(sae: Sae) -> float | None:
    """The number of features that should fire on a token: as declared, or else as many as can win; None if unknown."""
    if sae.declared_l0 is None and sae.contest:
        return float(sae.contest.winners * (sae.d_sae // sae.contest.group))
    return sae.declared_l0


def fits(sae: Sae, measured: ReconstructionQuality) -> bool:
    """Whether an SAE that is run right can reconstruct like this."""
    return _l0_fits(sae, measured) and measured.fvu < FVU_LIMIT


def norms_fit(sae: Sae, geometry: Geometry) -> bool:
    """Whether decoder rows have norm 1, if the publisher promises that."""
    return not sae.unit_decoder or max(1 - geometry.norm_min, geometry.norm_max - 1) <= NORM_TOLERANCE


def diagnose(examination: Examination) -> Diagnosis:
    """Judges an SAE: the diagnosis is the first thing that is wrong, the plainest first."""
    return next(_diagnoses(examination), None) or _unexplained(examination)


def _diagnoses(examination: Examination) -> Iterator[Diagnosis]:
    """What can be said for certain, the plainest first; nothing if the numbers are wrong and nothing explains them."""
    sae, measured, geometry = examination.sae, examination.measured, examination.geometry
    good = fits(sae, measured)
    here = _here(examination)
    if geometry.damaged:
        yield Diagnosis(
            "wrong", f"{geometry.damaged} rows of W_dec hold NaN or infinity: the file is damaged, download it again"
        )
    if _only_shifted(examination):
        yield Diagnosis(
            "suspect" if good else "wrong",
            f"{here}: one constant vector explains {measured.shift:.3g} of that FVU, so b_dec is not that of this SAE; "
            + ("what fires depends on it" if sae.subtracts_b_dec else "what fires does not depend on it"),
        )
    if best := examination.best:
        yield Diagnosis(
            "suspect" if good else "wrong",
            f"reads {examination.place}, but {best.alternative.claim}: L0 {best.measured.l0:.1f}, FVU "
            f"{best.measured.fvu:.3g}; as it is, {_numbers(sae, examination.sampled)}",
        )
    if not norms_fit(sae, geometry):
        yield Diagnosis(
            "wrong",
            f"rows of W_dec have norms from {geometry.norm_min:.3g} to {geometry.norm_max:.3g} where its publisher "
            f"promises 1: values of another scale or type, or of another array; {here}",
        )
    if examination.golden and not examination.golden.agrees:
        yield Diagnosis("wrong", f"{_disagreement(examination.golden)}; {here}")
    if good:
        yield Diagnosis("ok", f"{here}, as it should be")


def _unexplained(examination: Examination) -> Diagnosis:
    """What is left to say of an SAE whose numbers do not fit, and do not with any alternative either."""
    sae, measured, here = examination.sae, examination.measured, _here(examination)
    others = f"{len(examination.tried)} other ways to run it"
    if measured.fvu < FVU_LIMIT:
        what = (
            "k or the declared L0 is wrong" if sae.contest else "the declared L0 is of another SAE, or the text unusual"
        )
        return Diagnosis("suspect", f"{here}: only L0 does not fit, and none of {others} explains more; {what}")
    if examination.order and examination.order.mixed_up:
        return Diagnosis(
            "wrong", f"{here}: columns of W_enc point along rows of W_dec of other features; one is in another order"
        )
    return Diagnosis(
        "wrong",
        f"{here}: {_symptom(sae, measured)}; none of {others} fits, so it was made for another model, or its file is "
        "damaged",
    )


def _only_shifted(examination: Examination) -> bool:
    """Whether a constant added to the reconstruction would mend it, and better than anything tried."""
    centred = examination.measured.fvu - examination.measured.shift
    best = examination.best.measured.fvu if examination.best else FVU_LIMIT
    return _l0_fits(examination.sae, examination.measured) and centred < min(
        2 / 3 * examination.measured.fvu, 2 / 3 * best
    )


def _l0_fits(sae: Sae, measured: ReconstructionQuality) -> bool:
    """Whether mean L0 is near the expected one; always if nobody says what to expect."""
    expected = expected_l0(sae)
    return not expected or abs(measured.l0 / expected - 1) <= L0_TOLERANCE


def _here(examination: Examination) -> str:
    return f"{_numbers(examination.sae, examination.measured)} at {examination.place}"


def _symptom(sae: Sae, measured: ReconstructionQuality) -> str:
    """What the numbers look like, where nothing explains them."""
    expected = expected_l0(sae)
    if measured.l0 > (3 * expected if expected else 300) and measured.fvu > 1:
        return "too much fires, as at a wrong site or with a normalisation missing"
    if expected and measured.l0 < expected / 2:
        return "too little fires, as with a gain or a normalisation too many or b_dec subtracted where it must not be"
    if expected and _l0_fits(sae, measured):
        return "L0 is right and the reconstruction is not, as with a wrong target or a transposed decoder"
    return "the reconstruction is not right"


def _numbers(sae: Sae, measured: ReconstructionQuality) -> str:
    expected = expected_l0(sae)
    declared = f" (declared {expected:g})" if expected else ""
    return f"L0 {measured.l0:.1f}{declared}, FVU {measured.fvu:.3g}"


def _disagreement(golden: Agreement) -> str:
    worst = golden.worst
    return (
        f"feature {worst.index} deviates by {worst.deviation:.1%} from its exported activations, with a correlation of "
        f"{worst.correlation:.3f}; tolerance {golden.tolerance:.1%}"
    )
