"""Says whether an SAE's numbers are right, and if not, which mistake they look like."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from scopewatch.acceptance.alternatives import Alternative, Order, Place
from scopewatch.acceptance.golden import Agreement
from scopewatch.acceptance.reconstruction import Geometry, Measurement
from scopewatch.sae.weights import Sae

L0_TOLERANCE = 0.25
"""How far, as a share, mean L0 may be from the declared one."""
FVU_LIMIT = 0.6
"""A rule of thumb. Measured at the right place: 0.26 for an MLP output SAE of Gemma Scope, 0.50 for a transcoder; at
wrong ones 6 and more. Residual streams leave about 0.1 to 0.4."""
NORM_TOLERANCE = 0.02
_NOISE = 0.005
"""Differences in FVU below this say nothing."""

Verdict = Literal["ok", "suspect", "wrong"]


@dataclass(frozen=True, slots=True)
class Tried:
    """An alternative and its numbers."""

    alternative: Alternative
    measured: Measurement


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything measured of one SAE."""

    sae: Sae
    place: Place
    measured: Measurement
    geometry: Geometry
    sampled: Measurement
    """Like `measured`, but on the tokens that alternatives are tried on."""
    golden: Agreement | None = None
    """If there was an export to compare with."""
    tried: Sequence[Tried] = ()
    order: Order | None = None

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
    verdict: Verdict
    finding: str
    """One sentence."""


def expected_l0(sae: Sae) -> float | None:
    """Features that should fire per token: the declared number, or else as many as win; None if nobody says."""
    if sae.declared_l0 is None and sae.contest:
        return float(sae.contest.winners * (sae.d_sae // sae.contest.group))
    return sae.declared_l0


def fits(sae: Sae, measured: Measurement) -> bool:
    """Whether these can be the numbers of an SAE that is run right."""
    return _l0_fits(sae, measured) and measured.fvu < FVU_LIMIT


def norms_fit(sae: Sae, geometry: Geometry) -> bool:
    """Whether decoder rows have norm 1 if that was promised."""
    return not sae.unit_decoder or max(1 - geometry.norm_min, geometry.norm_max - 1) <= NORM_TOLERANCE


def diagnose(evidence: Evidence) -> Diagnosis:
    """The verdict: the first thing that is wrong, the plainest first."""
    return next(_diagnoses(evidence))


def _diagnoses(evidence: Evidence) -> Iterator[Diagnosis]:
    sae, measured, geometry = evidence.sae, evidence.measured, evidence.geometry
    good = fits(sae, measured)
    here = f"{_numbers(sae, measured)} at {evidence.place}"
    others = f"{len(evidence.tried)} other ways to run it"
    if geometry.damaged:
        yield Diagnosis(
            "wrong", f"{geometry.damaged} rows of W_dec hold NaN or infinity: the file is damaged, download it again"
        )
    if _only_shifted(evidence):
        yield Diagnosis(
            "suspect" if good else "wrong",
            f"{here}: one constant vector explains {measured.shift:.3g} of that FVU, so b_dec is not that of this SAE; "
            + ("what fires depends on it" if sae.subtracts_b_dec else "what fires does not depend on it"),
        )
    if best := evidence.best:
        yield Diagnosis(
            "suspect" if good else "wrong",
            f"reads {evidence.place}, but {best.alternative.claim}: L0 {best.measured.l0:.1f}, FVU "
            f"{best.measured.fvu:.3g}; as it is, {_numbers(sae, evidence.sampled)}",
        )
    if not norms_fit(sae, geometry):
        yield Diagnosis(
            "wrong",
            f"rows of W_dec have norms from {geometry.norm_min:.3g} to {geometry.norm_max:.3g} where its publisher "
            f"promises 1: values of another scale or type, or of another array; {here}",
        )
    if evidence.golden and not evidence.golden.agrees:
        yield Diagnosis("wrong", f"{_disagreement(evidence.golden)}; {here}")
    if good:
        yield Diagnosis("ok", f"{here}, as it should be")
    if measured.fvu < FVU_LIMIT:
        what = (
            "k or the declared L0 is wrong" if sae.contest else "the declared L0 is of another SAE, or the text unusual"
        )
        yield Diagnosis("suspect", f"{here}: only L0 does not fit, and none of {others} explains more; {what}")
    if evidence.order and evidence.order.mixed_up:
        yield Diagnosis(
            "wrong", f"{here}: columns of W_enc point along rows of W_dec of other features; one is in another order"
        )
    yield Diagnosis(
        "wrong",
        f"{here}: {_symptom(sae, measured)}; none of {others} fits, so it was made for another model, or its file is "
        "damaged",
    )


def _only_shifted(evidence: Evidence) -> bool:
    """Whether a constant added to the reconstruction would mend it, and better than anything tried."""
    centred = evidence.measured.fvu - evidence.measured.shift
    best = evidence.best.measured.fvu if evidence.best else FVU_LIMIT
    return _l0_fits(evidence.sae, evidence.measured) and centred < min(2 / 3 * evidence.measured.fvu, 2 / 3 * best)


def _l0_fits(sae: Sae, measured: Measurement) -> bool:
    expected = expected_l0(sae)
    return not expected or abs(measured.l0 / expected - 1) <= L0_TOLERANCE


def _symptom(sae: Sae, measured: Measurement) -> str:
    expected = expected_l0(sae)
    if measured.l0 > (3 * expected if expected else 300) and measured.fvu > 1:
        return "too much fires, as at a wrong site or with a normalisation missing"
    if expected and measured.l0 < expected / 2:
        return "too little fires, as with a gain or a normalisation too many or b_dec subtracted where it must not be"
    if expected and _l0_fits(sae, measured):
        return "L0 is right and the reconstruction is not, as with a wrong target or a transposed decoder"
    return "the reconstruction is not right"


def _numbers(sae: Sae, measured: Measurement) -> str:
    expected = expected_l0(sae)
    declared = f" (declared {expected:g})" if expected else ""
    return f"L0 {measured.l0:.1f}{declared}, FVU {measured.fvu:.3g}"


def _disagreement(golden: Agreement) -> str:
    worst = golden.worst
    return (
        f"feature {worst.index} deviates by {worst.deviation:.1%} from its exported activations, with a correlation of "
        f"{worst.correlation:.3f}; tolerance {golden.tolerance:.1%}"
    )
