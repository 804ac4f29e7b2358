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
    far,
    near,
    order_of,
    other_centring,
    other_firing,
    other_k,
    other_order,
    other_scales,
    other_shapes,
)
from scopewatch.acceptance.diagnosis import Evidence, Tried, Verdict, diagnose, expected_l0, fits, norms_fit
from scopewatch.acceptance.golden import Agreement, Golden, compare
from scopewatch.acceptance.reconstruction import Geometry, Measurement, Pair, geometry, measure
from scopewatch.acceptance.sample import Window, activations, load_tokenizer, read_text, shortened, windows_of
from scopewatch.config import Config
from scopewatch.errors import ReaderError, SaeError
from scopewatch.reader.hookpoints import EMBED, EMBEDDING, Hookpoint, parse_hookpoint, sites, width
from scopewatch.reader.loading import Reader, find_reader, layer_count, load_reader
from scopewatch.releases.find import find_sae
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack
from scopewatch.sae.weights import Sae
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import ReaderIdentity

_ALL_LAYERS = 32
_SEARCH_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Verification:
    """The check and its outcome: what an audit log needs to know of it."""

    verdict: Verdict
    finding: str
    """One sentence."""
    reader: ReaderIdentity
    sae: str
    """Its weights file."""
    digests: Mapping[str, str]
    """SHA-256 of each of its files, by name."""
    origin: Mapping[str, str]
    """Hub repository and commit, if it came from there."""
    format: str
    architecture: str
    hookpoint: str
    hookpoint_out: str
    d_in: int
    d_sae: int
    text: str
    """The file, or `bundled`."""
    measured: Measurement
    """On all tokens but special ones and position 0 of each window of at most 512."""
    declared_l0: float | None
    l0_ratio: float | None
    """Measured / declared."""
    geometry: Geometry
    unit_decoder: bool
    """Whether decoder rows of norm 1 are promised."""
    golden: Agreement | None
    tried: int
    """Other ways to run it that were measured."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """A reader and the text it reads; checks any number of SAEs."""

    reader: Reader
    tokenizer: PreTrainedTokenizerFast
    windows: Sequence[Window]
    few: Sequence[Window]
    """What alternatives are tried on."""
    text: str
    """What the windows are of."""

    def __call__(
        self, sae: Sae, hookpoint: str = "", *, golden: Golden | None = None, origin: Mapping[str, str] | None = None
    ) -> Verification:
        """Checks an SAE.

        Args:
            sae: It.
            hookpoint: Where it reads, if not where its files say.
            golden: If there is an export.
            origin: Where it came from.

        Raises:
            SaeError: It cannot be run on this reader at all.
            DataError: The export cannot be compared.
            ReaderError: The reader's activations overflow.
        """
        place = place_of(sae, hookpoint)
        with TemporaryDirectory(prefix="scopewatch-") as folder:
            evidence = self._evidence(_on_disk(sae, Path(folder)), place, golden, Path(folder))
        diagnosis, expected = diagnose(evidence), expected_l0(sae)
        return Verification(
            verdict=diagnosis.verdict,
            finding=diagnosis.finding,
            reader=self.reader.identity,
            sae=str(sae.files[0]),
            digests=sae.digests(),
            origin=origin or {},
            format=sae.format,
            architecture=sae.architecture,
            hookpoint=str(place.reads),
            hookpoint_out=str(place.writes),
            d_in=sae.d_in,
            d_sae=sae.d_sae,
            text=self.text,
            measured=evidence.measured,
            declared_l0=expected,
            l0_ratio=evidence.measured.l0 / expected if expected else None,
            geometry=evidence.geometry,
            unit_decoder=sae.unit_decoder,
            golden=evidence.golden,
            tried=len(evidence.tried),
        )

    def _evidence(self, sae: Sae, place: Place, golden: Golden | None, folder: Path) -> Evidence:
        self._assert_widths(sae, place)
        agreement = compare(golden, sae, place.reads, reader=self.reader, tokenizer=self.tokenizer) if golden else None
        pair = self._read(self.windows, [place])[place]
        if not all(bool(torch.isfinite(vectors).all()) for vectors in pair):
            raise ReaderError(f"the reader's activations at {place} overflow; run it in float32 or bfloat16")
        known = self._read(self.few, [place])
        (measured,) = measure(sae, [pair], folder)
        (sampled,) = measure(sae, [known[place]], folder)
        evidence = Evidence(
            sae=sae,
            place=place,
            measured=measured,
            geometry=geometry(sae, folder, in_place=place.reads == place.writes),
            sampled=sampled,
            golden=agreement,
        )
        widths, layers = self._widths(), len(self.reader.layers)
        if fits(sae, measured):
            close = [*near(place, widths, layers, sae), *other_centring(sae, place)]
            return replace(evidence, tried=self._try(close, known, folder))
        order = order_of(sae, folder, self.reader.device) if place.reads == place.writes else None
        every = [
            *far(place, widths, layers, sae),
            *other_centring(sae, place),
            *other_scales(sae, place, pair),
            *other_shapes(sae, place),
            *other_k(sae, place),
            *other_order(sae, place, order, folder),
            # What fires is judged by what it rebuilds, which a wrong decoder cannot tell.
            *(other_firing(sae, place, measured.l0) if norms_fit(sae, evidence.geometry) else ()),
        ]
        return replace(evidence, tried=self._try(every, known, folder), order=order)

    def _try(self, alternatives: Sequence[Alternative], known: Mapping[Place, Pair], folder: Path) -> list[Tried]:
        """Measures alternatives, several in one pass over the dictionary where only the place differs."""
        tried: list[Tried] = []
        for _, same in groupby(alternatives, lambda alternative: id(alternative.sae)):
            group = list(same)
            sae = group[0].sae
            tokens = sum(len(window.ids) for window in self.few)
            step = max(1, _SEARCH_BYTES // (tokens * 4 * (sae.d_in + 3 * sae.d_out)))
            for part in (group[start : start + step] for start in range(0, len(group), step)):
                unread = [one.place for one in part if one.place not in known]
                pairs = {**known, **self._read(self.few, unread)}
                measured = measure(sae, [pairs[one.place] for one in part], folder)
                tried += map(Tried, part, measured)
        return tried

    def _read(self, windows: Sequence[Window], places: Sequence[Place]) -> dict[Place, Pair]:
        if not places:
            return {}
        hookpoints = [hookpoint for place in places for hookpoint in (place.reads, place.writes)]
        found = activations(self.reader, windows, hookpoints)
        return {place: (found[place.reads], found[place.writes]) for place in places}

    def _widths(self) -> dict[str, int]:
        """Length of the vectors at each named site."""
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


def verifier(
    reader: str, hookpoints: Sequence[Hookpoint], config: Config, *, text: Path | None, max_tokens: int
) -> Verifier:
    """Loads a reader, whole if it has up to 32 layers, else to one layer beyond the hookpoints, and reads the text.

    Args:
        reader: Directory, or a hub id when no such directory exists and it looks like one.
        hookpoints: Where SAEs will read and write.
        config: Device, dtype and whether to download.
        text: The file; None for the bundled text.
        max_tokens: Most tokens measured on.

    Raises:
        SetupError: A file or setting is wrong.
    """
    if config.torch_threads:
        torch.set_num_threads(config.torch_threads)
    name = str(text) if text else "bundled"
    content = read_text(text)
    choice = ReaderSource.named(reader)
    home = find_reader(choice, allow_download=config.allow_download)
    loaded = load_reader(
        home,
        name=choice.name,
        revision=choice.revision,
        deepest_layer=_deepest(home, max(hookpoint.layer for hookpoint in hookpoints)),
        device=config.device,
        dtype=config.dtype,
    )
    tokenizer = load_tokenizer(home, loaded)
    windows = windows_of(content, tokenizer, name=name, context=loaded.context, max_tokens=max_tokens)
    return Verifier(loaded, tokenizer, windows, shortened(windows, 4, 128), name)


def verify(
    *, reader: str, source: SaeSource, config: Config, text: Path | None, max_tokens: int, golden: Golden | None
) -> Verification:
    """Checks one SAE; the arguments are those of `verifier` and `Verifier`.

    Raises:
        SetupError: A file or setting is wrong.
    """
    found = find_sae(source, allow_download=config.allow_download)
    if is_pack(found.path):
        raise SaeError(f"{found.path}: a watch pack, or a probe, has no decoder to check it by; verify a whole SAE")
    sae = open_sae(found)
    place = place_of(sae, found.hookpoint)
    check = verifier(reader, [place.reads, place.writes], config, text=text, max_tokens=max_tokens)
    return check(sae, found.hookpoint, golden=golden, origin=found.origin)


def place_of(sae: Sae, hookpoint: str = "") -> Place:
    """Where an SAE reads, as told or else as its files say, and where it writes.

    Raises:
        SaeError: Nobody says it, or it is no place in a model.
    """
    reads = hookpoint or sae.hookpoint
    if not reads:
        raise SaeError(
            f"{sae.files[0]}: neither its files nor its folders say where it reads; "
            "say the hookpoint, for instance layers.20.resid_post"
        )
    writes = sae.hookpoint_out if sae.hookpoint_out not in {"", sae.hookpoint} else reads
    return Place(parse_hookpoint(reads), parse_hookpoint(writes))


def _deepest(directory: Path, hookpoint_layer: int) -> int:
    total = layer_count(directory)
    return max(hookpoint_layer, total - 1 if total <= _ALL_LAYERS else min(hookpoint_layer + 1, total - 1))


def _on_disk(sae: Sae, folder: Path) -> Sae:
    """The same SAE, whose matrices need not be decompressed again for every pass."""
    try:
        return sae.on_disk(folder)
    except OSError as error:
        raise SaeError(
            f"{sae.files[0]}: cannot be uncompressed into {folder}: {error.strerror}; set TMPDIR to a folder with room"
        ) from None
