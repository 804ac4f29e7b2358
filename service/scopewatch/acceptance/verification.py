"""The acceptance check of an SAE on a reader: do its numbers come out as its publisher says, and if not, why not?

Text is read as in training (BOS in, special tokens and position 0 not counted), the activations at the SAE's hookpoint
are encoded and decoded with the whole dictionary, and L0, unexplained variance and decoder norms are compared with what
is promised. Where they do not fit, other ways to run the SAE are tried on a part of the text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedTokenizerFast

from scopewatch.acceptance.alternatives import (
    Alternative,
    Place,
    nearby_places,
    order_of,
    other_centring,
    other_firing,
    other_k,
    other_order,
    other_places,
    other_scales,
    other_shapes,
)
from scopewatch.acceptance.diagnosis import (
    AcceptanceVerdict,
    Examination,
    Tried,
    diagnose,
    expected_l0,
    fits,
    norms_fit,
)
from scopewatch.acceptance.golden import Agreement, Golden, compare_with_export
from scopewatch.acceptance.reconstruction import (
    Geometry,
    InputAndTarget,
    ReconstructionQuality,
    measure_geometry,
    measure_reconstruction,
)
from scopewatch.acceptance.text_windows import Window, activations
from scopewatch.engine.whole import writes_at
from scopewatch.errors import ReaderError, SaeError
from scopewatch.identity import ReaderIdentity
from scopewatch.reader.hookpoints import EMBED, EMBEDDING, Hookpoint, hookpoint_of, sites, width
from scopewatch.reader.loading import Reader
from scopewatch.sae.weights import Sae

_SEARCH_BYTES = 256 << 20
"""The most memory for the activations of alternatives that are measured together."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome of a check, with all that an audit log needs to know of what was checked."""

    verdict: AcceptanceVerdict
    finding: str
    """What was found, in one sentence."""
    reader: ReaderIdentity
    sae: str
    """The SAE's weights file."""
    digests: Mapping[str, str]
    """SHA-256 of each of the SAE's files, by name."""
    origin: Mapping[str, str]
    """Hub repository and commit of the SAE, if it came from there."""
    format: str
    architecture: str
    hookpoint: str
    """Where the SAE reads."""
    hookpoint_out: str
    """Where its reconstruction belongs."""
    d_in: int
    d_sae: int
    text: str
    """The text file, or `bundled`."""
    measured: ReconstructionQuality
    """How well it reconstructs, on all tokens but special ones and position 0 of each window of at most 512."""
    declared_l0: float | None
    """The number of features that should fire on a token."""
    l0_ratio: float | None
    """Measured L0 / declared L0."""
    geometry: Geometry
    unit_decoder: bool
    """Whether decoder rows of norm 1 are promised."""
    golden: Agreement | None
    """How it agrees with exported activations; None without an export."""
    tried: int
    """The number of other ways to run it that were measured."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A reader that has a text to read, and checks any number of SAEs with it; made by `load_verifier`."""

    reader: Reader
    tokenizer: PreTrainedTokenizerFast
    windows: Sequence[Window]
    """What the SAE is measured on."""
    few: Sequence[Window]
    """The windows that alternatives are tried on: beginnings of a few of `windows`."""
    text: str
    """The name of the text that the windows are of."""

    def __call__(
        self, sae: Sae, hookpoint: str = "", *, golden: Golden | None = None, origin: Mapping[str, str] | None = None
    ) -> Verification:
        """Checks an SAE.

        Args:
            sae: The SAE.
            hookpoint: Where it reads, if not where its files say.
            golden: Exported activations to compare with; None if there are none.
            origin: Hub repository and commit that it came from; None for local files.

        Raises:
            SaeError: The SAE cannot be run on this reader at all.
            DataError: The export cannot be compared.
            ReaderError: The reader's activations overflow.
        """
        place = place_of(sae, hookpoint)
        with TemporaryDirectory(prefix="scopewatch-") as folder:
            examination = self._examine(_on_disk(sae, Path(folder)), place, golden, Path(folder))
        return self._verification(sae, examination, origin or {})

    def _verification(self, sae: Sae, examination: Examination, origin: Mapping[str, str]) -> Verification:
        diagnosis, expected, place = diagnose(examination), expected_l0(sae), examination.place
        return Verification(
            verdict=diagnosis.verdict,
            finding=diagnosis.finding,
            reader=self.reader.identity,
            sae=str(sae.files[0]),
            digests=sae.digests(),
            origin=origin,
            format=sae.format,
            architecture=sae.architecture,
            hookpoint=str(place.reads),
            hookpoint_out=str(place.writes),
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            text=self.text,
            measured=examination.measured,
            declared_l0=expected,
            l0_ratio=examination.measured.l0 / expected if expected else None,
            geometry=examination.geometry,
            unit_decoder=sae.unit_decoder,
            golden=examination.golden,
            tried=len(examination.tried),
        )

    def _examine(self, sae: Sae, place: Place, golden: Golden | None, folder: Path) -> Examination:
        """Measures the SAE as it is; then, on less text, alternatives: all of them, or near ones if the numbers fit."""
        self._assert_widths(sae, place)
        agreement = (
            compare_with_export(golden, sae, place.reads, reader=self.reader, tokenizer=self.tokenizer)
            if golden
            else None
        )
        sample = self._read(self.windows, [place])[place]
        if not all(bool(torch.isfinite(vectors).all()) for vectors in sample):
            raise ReaderError(f"the reader's activations at {place} overflow; run it in float32 or bfloat16")
        known = self._read(self.few, [place])
        (measured,) = measure_reconstruction(sae, [sample], folder)
        (sampled,) = measure_reconstruction(sae, [known[place]], folder)
        examination = Examination(
            sae=sae,
            place=place,
            measured=measured,
            geometry=measure_geometry(sae, folder, in_place=place.reads == place.writes),
            sampled=sampled,
            golden=agreement,
        )
        if fits(sae, measured):
            close = [*nearby_places(place, self._widths(), len(self.reader.layers), sae), *other_centring(sae, place)]
            return replace(examination, tried=self._try(close, known, folder))
        order = order_of(sae, folder, self.reader.device) if place.reads == place.writes else None
        every = self._alternatives(replace(examination, order=order), sample, folder)
        return replace(examination, tried=self._try(every, known, folder), order=order)

    def _alternatives(self, examination: Examination, sample: InputAndTarget, folder: Path) -> list[Alternative]:
        """Every other way to run an SAE whose numbers do not fit."""
        sae, place = examination.sae, examination.place
        return [
            *other_places(place, self._widths(), len(self.reader.layers), sae),
            *other_centring(sae, place),
            *other_scales(sae, place, sample),
            *other_shapes(sae, place),
            *other_k(sae, place),
            *other_order(sae, place, examination.order, folder),
            # What fires is judged by what it rebuilds, which a wrong decoder cannot tell.
            *(other_firing(sae, place, examination.measured.l0) if norms_fit(sae, examination.geometry) else ()),
        ]

    def _try(
        self, alternatives: Sequence[Alternative], known: Mapping[Place, InputAndTarget], folder: Path
    ) -> list[Tried]:
        """Measures alternatives, several in one pass over the dictionary where only the place differs."""
        tried: list[Tried] = []
        for _, same in groupby(alternatives, lambda alternative: id(alternative.sae)):
            group = list(same)
            sae = group[0].sae
            tokens = sum(len(window.ids) for window in self.few)
            step = max(1, _SEARCH_BYTES // (tokens * 4 * (sae.d_in + 3 * sae.d_out)))
            for part in (group[start : start + step] for start in range(0, len(group), step)):
                unread = [one.place for one in part if one.place not in known]
                samples = {**known, **self._read(self.few, unread)}
                measured = measure_reconstruction(sae, [samples[one.place] for one in part], folder)
                tried += map(Tried, part, measured)
        return tried

    def _read(self, windows: Sequence[Window], places: Sequence[Place]) -> dict[Place, InputAndTarget]:
        """The activations at both ends of each place, on all tokens of the windows that count."""
        if not places:
            return {}
        hookpoints = [hookpoint for place in places for hookpoint in (place.reads, place.writes)]
        found = activations(self.reader, windows, hookpoints)
        return {place: InputAndTarget(found[place.reads], found[place.writes]) for place in places}

    def _widths(self) -> dict[str, int]:
        """The length of the activation vectors at each named site of the reader."""
        return {
            site: width(self.reader, Hookpoint(EMBEDDING if site == EMBED else 0, site)) for site in sites(self.reader)
        }

    def _assert_widths(self, sae: Sae, place: Place) -> None:
        for hookpoint, length, does in ((place.reads, sae.d_in, "reads"), (place.writes, sae.d_out, "writes")):
            there = width(self.reader, hookpoint)
            if length != there:
                like = ", ".join(site for site, wide in self._widths().items() if wide == length) or "no site"
                raise SaeError(
                    f"{sae.files[0]}: the SAE {does} vectors of {length}, {hookpoint} of the reader has {there}; it "
                    f"was made for another model or another place in it (of that length: {like})"
                )


def place_of(sae: Sae, hookpoint: str = "") -> Place:
    """Where an SAE reads, as `hookpoint` says or else its files, and where it writes.

    Raises:
        SaeError: Neither says it, or it is no place in a model.
    """
    sae.assert_placed(hookpoint)
    reads = hookpoint_of(hookpoint, sae.hookpoint, sae.files[0])
    return Place(reads, writes_at(sae, reads))


def _on_disk(sae: Sae, folder: Path) -> Sae:
    """The same SAE with its matrices uncompressed in `folder`, so that no pass has to do it again."""
    try:
        return sae.on_disk(folder)
    except OSError as error:
        raise SaeError(
            f"{sae.files[0]}: cannot be uncompressed into {folder}: {error.strerror}; set TMPDIR to a folder with room"
        ) from None
