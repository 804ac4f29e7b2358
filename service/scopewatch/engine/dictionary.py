"""Every feature of one SAE on the tokens of one segment: for offline work, or between the batches of a service.

Online, only watched columns are multiplied. Here the whole dictionary is, tile by tile (`slabs.py`).
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from scopewatch.config import Config
from scopewatch.engine.build import (
    assert_fits,
    assert_trained_alike,
    identity_of,
    load_found,
    load_tokeniser,
    set_threads,
)
from scopewatch.engine.encoder import median_norms
from scopewatch.engine.passes import ROW_TOKENS, Passes, halved, in_rows, untouched
from scopewatch.engine.slabs import Dictionary, Portions
from scopewatch.errors import EngineError, SaeError
from scopewatch.identity import EngineIdentity, SaeIdentity
from scopewatch.reader.find import find_reader
from scopewatch.reader.hookpoints import Hookpoint, hookpoint_of
from scopewatch.reader.loading import Reader
from scopewatch.reader.prefixes import Reading
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.releases.find import find_sae
from scopewatch.sae.digests import checked_digests, combined_digest
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack
from scopewatch.sae.weights import Sae
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, Float32, Indices, Rounding, Segment, TokenisedPair

_SCHEMA = 1
_ROW_TOKENS = 8192
"""Tokens of one forward pass where nothing else is said; the service measures what a GPU holds, this does not."""
_BATCH_BYTES = 128 << 20
"""Activations that are encoded together: the dictionary is gone through once for them."""
_SILENCE = Activations(0, np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class WholeSae:
    """An opened SAE, and where it reads."""

    sae: Sae
    hookpoint: Hookpoint
    identity: SaeIdentity
    """The SAE as the engine tells it; no feature is watched."""


@dataclass(frozen=True, slots=True)
class SegmentActivations:
    """What an SAE makes of one segment of a pair, and what it read."""

    positions: Indices
    """The segment's tokens among the pair's, ascending; shape (n_tokens,)."""
    fired: Activations
    """Tokens are counted from the segment's first; columns are feature indices."""
    residual: Float32
    """The reader's activations at the hookpoint, shape (n_tokens, d_in)."""


@dataclass(frozen=True, slots=True)
class _Heard:
    """The reader's activations on one segment of a pair."""

    residual: torch.Tensor
    """Shape (n_tokens, d_in), float32."""
    median: torch.Tensor
    """The median norm on the whole pair, once for each of these tokens; shape (n_tokens,)."""


class DictionaryEngine:
    """Reads pairs down to an SAE's hookpoint and encodes all its features.

    The reader may be one that also serves: taps are attached only while a pass of this engine runs. Then every call
    belongs on the thread that serves, as a job of its worker.

    Args:
        reader: A reader that is loaded down to the hookpoint, or deeper.
        tokeniser: The reader's.
        whole: The SAE.
        max_tokens: The most tokens of one pass over a pair.
        max_windows: The most passes over a pair.
        row_tokens: The most tokens of one forward pass; a longer single text still gets one.
        portions: How much is worked on at once.

    Raises:
        SaeError: The SAE does not fit the reader, or an array of it is damaged.
    """

    def __init__(
        self,
        reader: Reader,
        tokeniser: Tokeniser,
        whole: WholeSae,
        *,
        max_tokens: int,
        max_windows: int = 1,
        row_tokens: int = _ROW_TOKENS,
        portions: Portions | None = None,
    ) -> None:
        try:
            assert_fits(reader, whole.hookpoint, whole.sae.d_in)
            assert_trained_alike(whole.sae.training, tokeniser)
        except SaeError as error:
            raise SaeError(f"{whole.sae.files[0]}: {error}") from None
        self.tokeniser = tokeniser
        self.identity = EngineIdentity(identity_of(reader, tokeniser), (whole.identity,))
        self._max_tokens, self._max_windows = max_tokens, max_windows
        self._reader = reader
        self._passes = Passes(reader)
        self._hookpoint = whole.hookpoint
        portions = portions or Portions()
        self._dictionary = Dictionary(whole.sae, reader.device, portions)
        self._row_tokens = min(ROW_TOKENS[reader.device.type], row_tokens)
        self._batch_tokens = min(portions.batch_tokens, max(1024, _BATCH_BYTES // (4 * self.d_in)))

    @property
    def d_in(self) -> int:
        """Length of the vectors the SAE reads."""
        return self.identity.saes[0].d_in

    @property
    def d_sae(self) -> int:
        """Number of the SAE's features."""
        return self.identity.saes[0].d_sae

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over everything that decides the numbers."""
        decides = [_SCHEMA, self.identity.decides, self._max_tokens, self._max_windows]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def encode(
        self, pairs: Sequence[TokenisedPair], segment: Segment, *, features: bool = True
    ) -> Iterator[SegmentActivations | EngineError]:
        """Encodes one segment of each pair, some thousand tokens at a time.

        Args:
            pairs: The pairs, as `tokeniser` gives them.
            segment: The segment whose tokens are encoded.
            features: Whether what fires is wanted; without it, only the residual is told.

        Yields:
            One for each pair, in order; an error where its activations are not finite, or where it cannot be read.

        Raises:
            EngineDied: The device is lost.
            SaeError: An array of the SAE is damaged.
        """
        for batch in in_rows(pairs, _length, self._batch_tokens):
            heard = [found for row in in_rows(batch, _length, self._row_tokens) for found in self._read(row, segment)]
            read = [one for one in heard if isinstance(one, _Heard)]
            fired = _SILENCE
            if features and read:
                fired = self._dictionary.fired(
                    torch.cat([one.residual for one in read]), torch.cat([one.median for one in read])
                )
            yield from _parted(fired, heard, [np.flatnonzero(pair.segments == segment) for pair in batch])

    def _read(self, row: Sequence[TokenisedPair], segment: Segment) -> list[_Heard | EngineError]:
        """Each pair's activations on the segment; one pass, or on failure several."""
        return halved(lambda pairs: self._forward(pairs, segment), row, _failed, self._reader.device)

    def _forward(self, row: Sequence[TokenisedPair], segment: Segment) -> list[_Heard | EngineError]:
        readings = [Reading(window, ()) for pair in row for window in pair.windows]
        found = self._passes.read(readings, {self._hookpoint: untouched}).tapped[self._hookpoint]
        inside = [pair.segments == segment for pair in row]
        wanted = self._passes.on_device(np.flatnonzero(np.concatenate(inside)))
        residual = found[wanted].float()
        if not torch.isfinite(residual).all():
            # A kernel that reads several texts at once may have carried it from one to another.
            raise not_finite()
        median = median_norms(found, [len(reading.ids) for reading in readings])[wanted]
        lengths = [int(tokens.sum()) for tokens in inside]
        return list(map(_Heard, torch.split(residual, lengths), torch.split(median, lengths)))


def build_dictionary(
    reader: ReaderSource,
    sae: SaeSource,
    config: Config,
    portions: Portions | None = None,
    *,
    rounding: Rounding = "none",
) -> DictionaryEngine:
    """Loads a reader down to where an SAE reads, and opens the SAE.

    Args:
        reader: Where the reader is.
        sae: Where the SAE is; a path counts from the working directory.
        config: Settings.
        portions: How much is worked on at once.
        rounding: The format that the reader's weights are rounded to; `digest` does not say so.

    Raises:
        SetupError: A file or setting is wrong; the message names it.
    """
    set_threads(config)
    directory = find_reader(reader, config)
    whole = open_whole(sae, config)
    loaded = load_found(directory, reader, config, deepest_layer=whole.hookpoint.layer, rounding=rounding)
    tokeniser, max_tokens = load_tokeniser(directory, loaded, config, reader.rendering)
    row_tokens = config.max_batch_tokens or _ROW_TOKENS
    return DictionaryEngine(
        loaded,
        tokeniser,
        whole,
        max_tokens=max_tokens,
        max_windows=config.windows,
        row_tokens=row_tokens,
        portions=portions,
    )


def open_whole(source: SaeSource, config: Config) -> WholeSae:
    """Opens an SAE of which every feature is wanted.

    Args:
        source: Where the SAE is; a path counts from the working directory.
        config: Settings.

    Raises:
        HubError: Its files are not here and may not or cannot be downloaded.
        SaeError: A file is wrong, does not say where the SAE reads, or holds a part of an SAE.
    """
    found = find_sae(source, allow_download=config.allow_download)
    if is_pack(found.path):
        raise SaeError(f"{found.path}: a watch pack holds a part of an SAE; name the SAE that it was made of")
    sae = open_sae(found)
    sae.assert_placed(found.hookpoint)
    hookpoint = hookpoint_of(found.hookpoint, sae.hookpoint, sae.files[0])
    identity = SaeIdentity(
        name="sae",
        format=sae.format,
        architecture=sae.architecture,
        hookpoint=str(hookpoint),
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        digest=combined_digest(checked_digests(sae), sae.recipe),
        watched=(),
        neuronpedia=found.neuronpedia,
        repo=found.origin.get("repo", ""),
        revision=found.origin.get("revision", ""),
    )
    return WholeSae(sae, hookpoint, identity)


def _length(pair: TokenisedPair) -> int:
    return len(pair.ids)


def _failed(_pair: TokenisedPair, failure: Exception) -> _Heard | EngineError:
    """What becomes of a pair on which the reader fails; mistakes of the program's own are raised."""
    if isinstance(failure, EngineError):
        # Without the traceback, which keeps the failed pass's tensors alive.
        return EngineError(str(failure))
    if isinstance(failure, torch.OutOfMemoryError):
        return EngineError("it does not fit the device's memory")
    raise failure


def _parted(
    fired: Activations, heard: Sequence[_Heard | EngineError], positions: Sequence[Indices]
) -> Iterator[SegmentActivations | EngineError]:
    """Parts what fired on the residuals of all pairs together into what fired on each pair's."""
    start = 0
    for one, where in zip(heard, positions, strict=True):
        if isinstance(one, EngineError):
            yield one
            continue
        mine = slice(*np.searchsorted(fired.token, (start, start + len(where))))
        own = Activations(len(where), fired.token[mine] - np.int32(start), fired.column[mine], fired.value[mine])
        start += len(where)
        if np.isfinite(own.value).all():
            yield SegmentActivations(where, own, one.residual.cpu().numpy())
        else:
            yield not_finite()


def not_finite() -> EngineError:
    """What is said of a pair on which activations are not finite."""
    return EngineError("the reader's activations overflowed or are NaN on this pair; its weights may be damaged")
