"""Every feature of one SAE on the tokens of one segment, for offline work.

Online, only watched columns are multiplied. Here the whole dictionary is, in tiles of tokens x features, of which only
what fires is kept; nothing of the size of tokens x d_sae ever exists, and a dictionary that is large is read from its
files again for every batch.
"""

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from scopewatch.config import Config
from scopewatch.engine.build import assert_fits, identity_of, load_tokeniser, set_threads
from scopewatch.engine.encoder import HookpointEncoder
from scopewatch.engine.runner import ROW_TOKENS
from scopewatch.errors import EngineDied, EngineError, SaeError
from scopewatch.reader.flex import MULTIPLE
from scopewatch.reader.hookpoints import Hookpoint, parse_hookpoint, tap
from scopewatch.reader.loading import Reader, find_reader, load_reader
from scopewatch.reader.packing import Packing
from scopewatch.reader.prefixes import Reading
from scopewatch.reader.text import Tokeniser
from scopewatch.releases.find import find_sae
from scopewatch.sae.digests import checked_digests, combined_digest
from scopewatch.sae.open import open_sae
from scopewatch.sae.pack import is_pack
from scopewatch.sae.weights import Sae
from scopewatch.sources import ReaderSource, SaeSource
from scopewatch.types import Activations, EngineIdentity, SaeIdentity, Segment, TokenisedPair

_SCHEMA = 1
_ROW_TOKENS = 8192
"""Tokens of one forward pass where nothing else is said; the service measures what a GPU holds, this does not."""
_BATCH_TOKENS = 16_384
_BATCH_BYTES = 128 << 20
"""Activations that are encoded together: the dictionary is gone through once for them."""
_SLAB = 2048
"""Features whose columns are multiplied at once."""
_TILE_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""On a CPU, what its caches hold."""
_CONTEST_ELEMENTS = 16 << 20
"""Where a whole dictionary competes, a tile is all of it by few tokens."""
_KEPT_BYTES = 512 << 20
"""An encoder up to this size stays in memory; on a GPU, one up to a quarter of what is free."""

_Fired = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]
"""Token, feature and value."""
_SILENCE = Activations(0, np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))


@dataclass(frozen=True, slots=True)
class SegmentActivations:
    """What an SAE makes of one segment of a pair, and what it read."""

    positions: NDArray[np.intp]
    """The segment's tokens among the pair's, ascending; shape (n_tokens,)."""
    fired: Activations
    """Tokens are counted from the segment's first; columns are feature indices."""
    residual: NDArray[np.float32]
    """The reader's activations at the hookpoint, shape (n_tokens, d_in)."""


class DictionaryEngine:
    """Reads pairs down to an SAE's hookpoint and encodes all its features; made by `build_dictionary`.

    Args:
        reader: Loaded down to the hookpoint.
        tokeniser: The reader's.
        dictionary: The SAE.
        identity: Of both; no feature is watched.
        max_tokens: Most tokens read of one pair.
        row_tokens: Tokens of one forward pass; a longer single text still gets one.
    """

    def __init__(
        self,
        reader: Reader,
        tokeniser: Tokeniser,
        dictionary: "Dictionary",
        *,
        identity: EngineIdentity,
        max_tokens: int,
        row_tokens: int,
    ) -> None:
        self.tokeniser = tokeniser
        self.identity = identity
        self._max_tokens = max_tokens
        self._reader = reader
        self._dictionary = dictionary
        self._row_tokens = row_tokens
        self._batch_tokens = min(_BATCH_TOKENS, max(1024, _BATCH_BYTES // (4 * self.d_in)))
        self._multiple = MULTIPLE if reader.identity.attention == "packed_flex" else 1
        self._found: list[torch.Tensor] = []
        tap(reader, parse_hookpoint(identity.saes[0].hookpoint), self._found.append)

    @property
    def d_in(self) -> int:
        return self.identity.saes[0].d_in

    @property
    def d_sae(self) -> int:
        return self.identity.saes[0].d_sae

    @property
    def digest(self) -> str:
        """SHA-256, in hex, over everything that decides the numbers."""
        decides = [_SCHEMA, asdict(self.identity), self._max_tokens]
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()

    @torch.inference_mode()
    def encode(
        self, pairs: Sequence[TokenisedPair], segment: Segment, *, features: bool = True
    ) -> Iterator[SegmentActivations | EngineError]:
        """Encodes one segment of each pair, some thousand tokens at a time.

        Args:
            pairs: As `tokeniser` gives them.
            segment: Which.
            features: Whether what fires is wanted; without it, only the residual is told.

        Yields:
            One for each pair, in order; an error where its activations are not finite, or where it cannot be read.

        Raises:
            EngineDied: The device is lost.
            SaeError: An array of the SAE is damaged.
        """
        for batch in _runs(pairs, self._batch_tokens):
            residuals = [found for row in _runs(batch, self._row_tokens) for found in self._read(row, segment)]
            read = [residual for residual in residuals if isinstance(residual, torch.Tensor)]
            fired = self._dictionary.fired(torch.cat(read)) if features and read else _SILENCE
            yield from _parted(fired, residuals, [np.flatnonzero(pair.segments == segment) for pair in batch])

    def _read(self, row: Sequence[TokenisedPair], segment: Segment) -> list[torch.Tensor | EngineError]:
        """Of each pair the activations on the segment, (n_tokens, d_in) in float32; one pass, or on failure several."""
        try:
            return self._forward(row, segment)
        except torch.AcceleratorError as error:
            raise EngineDied(f"the device failed: {str(error).splitlines()[0]}") from error
        except (EngineError, torch.OutOfMemoryError) as error:
            told = str(error) if isinstance(error, EngineError) else "it does not fit the device's memory"
        # Out of the except block: the traceback kept the failed pass's tensors alive.
        self._found.clear()
        if len(row) == 1:
            return [EngineError(told)]
        half = len(row) // 2
        return [*self._read(row[:half], segment), *self._read(row[half:], segment)]

    def _forward(self, row: Sequence[TokenisedPair], segment: Segment) -> list[torch.Tensor | EngineError]:
        packing = Packing([Reading(pair.ids, ()) for pair in row], [()] * len(row), multiple=self._multiple)
        ids, positions = (
            torch.from_numpy(array)[None].to(self._reader.device) for array in (packing.ids, packing.positions)
        )
        self._reader.model(input_ids=ids, position_ids=positions, packing=packing, use_cache=False)
        inside = [pair.segments == segment for pair in row]
        wanted = torch.from_numpy(np.flatnonzero(np.concatenate(inside))).to(self._reader.device)
        residual = self._found.pop()[0, wanted].float()
        if not torch.isfinite(residual).all():
            # A kernel that reads several texts at once may have carried it from one to another.
            raise _not_finite()
        return list(torch.split(residual, [int(tokens.sum()) for tokens in inside]))


class Dictionary:
    """The encoder of a whole SAE, slab by slab: kept in memory where it is small, else read again each time.

    Args:
        sae: It.
        device: Where it is multiplied.

    Raises:
        SaeError: An array is damaged, or there is no room to uncompress it.
    """

    def __init__(self, sae: Sae, device: torch.device) -> None:
        folder = Path(tempfile.mkdtemp(prefix="scopewatch-"))
        scratch = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._sae = sae.on_disk(folder)
        self._device = device
        group = sae.contest.group if sae.contest else 1
        self._width = min(-(-_SLAB // group) * group, sae.d_sae)
        self._tile = _CONTEST_ELEMENTS if group == sae.d_sae else _TILE_ELEMENTS[device.type]
        room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else _KEPT_BYTES
        self._kept: list[tuple[int, HookpointEncoder]] = []
        if 4 * sae.d_in * sae.d_sae <= room:
            self._kept = list(self._slabs())
            scratch()

    def fired(self, residual: torch.Tensor) -> Activations:
        """What fires on activations of shape (n_tokens, d_in); what is not finite counts as firing.

        Raises:
            SaeError: An array is damaged.
        """
        step = max(1, self._tile // self._width)
        # Arrays that grow in place: thousands of small ones between the tiles would tear the heap to pieces.
        found = bytearray(), bytearray(), bytearray()
        for feature, encoder in self._kept or self._slabs():
            for first in range(0, len(residual), step):
                fires = _nonzero(encoder(residual[first : first + step]), first, feature)
                for kept, part in zip(found, fires, strict=True):
                    kept.extend(part.tobytes())
        token, column = (np.frombuffer(array, np.int32) for array in found[:2])
        # Stable: a token's features are ascending already.
        order = np.argsort(token, kind="stable")
        return Activations(len(residual), token[order], column[order], np.frombuffer(found[2], np.float32)[order])

    def _slabs(self) -> Iterator[tuple[int, HookpointEncoder]]:
        for start in range(0, self._sae.d_sae, self._width):
            encoder = self._sae.encoder(range(start, min(start + self._width, self._sae.d_sae)))
            yield start, HookpointEncoder([encoder]).to(self._device)


def build_dictionary(reader: ReaderSource, sae: SaeSource, config: Config) -> DictionaryEngine:
    """Loads a reader down to where an SAE reads, and opens the SAE.

    Args:
        reader: The reader.
        sae: The SAE; its path, if it has one, counts from the working directory.
        config: Settings.

    Raises:
        SetupError: A file or setting is wrong; the message names it.
    """
    set_threads(config)
    directory = find_reader(reader, allow_download=config.allow_download)
    found = find_sae(sae, allow_download=config.allow_download)
    if is_pack(found.path):
        raise SaeError(f"{found.path}: a watch pack holds a part of an SAE; name the SAE that it was made of")
    opened = open_sae(found)
    hookpoint = _hookpoint(opened, found.hookpoint)
    loaded = load_reader(
        directory,
        name=reader.name,
        # The cache names a snapshot's folder by its commit.
        revision=directory.name if reader.id else "",
        deepest_layer=hookpoint.layer,
        device=config.device,
        dtype=config.dtype,
        compiled=config.torch_compile,
    )
    try:
        assert_fits(loaded, hookpoint, opened.d_in)
    except SaeError as error:
        raise SaeError(f"{opened.files[0]}: {error}") from None
    tokeniser, max_tokens = load_tokeniser(directory, loaded, config)
    identity = SaeIdentity(
        name="sae",
        format=opened.format,
        architecture=opened.architecture,
        hookpoint=str(hookpoint),
        d_in=opened.d_in,
        d_sae=opened.d_sae,
        digest=combined_digest(checked_digests(opened), opened.recipe),
        watched=(),
        neuronpedia=found.neuronpedia,
        repo=found.origin.get("repo", ""),
        revision=found.origin.get("revision", ""),
    )
    return DictionaryEngine(
        loaded,
        tokeniser,
        Dictionary(opened, loaded.device),
        identity=EngineIdentity(identity_of(loaded, tokeniser), (identity,)),
        max_tokens=max_tokens,
        row_tokens=min(ROW_TOKENS[loaded.device.type], config.max_batch_tokens or _ROW_TOKENS),
    )


def _hookpoint(sae: Sae, told: str) -> Hookpoint:
    if not (told or sae.hookpoint):
        raise SaeError(
            f"{sae.files[0]}: neither its files nor its folders say where it reads; "
            "say the hookpoint, for instance layers.20.resid_post"
        )
    return parse_hookpoint(told or sae.hookpoint)


def _parted(
    fired: Activations, residuals: Sequence[torch.Tensor | EngineError], positions: Sequence[NDArray[np.intp]]
) -> Iterator[SegmentActivations | EngineError]:
    """What fired on all residuals together, parted into that of each."""
    start = 0
    for residual, where in zip(residuals, positions, strict=True):
        if isinstance(residual, EngineError):
            yield residual
            continue
        mine = slice(*np.searchsorted(fired.token, (start, start + len(where))))
        own = Activations(len(where), fired.token[mine] - np.int32(start), fired.column[mine], fired.value[mine])
        start += len(where)
        if np.isfinite(own.value).all():
            yield SegmentActivations(where, own, residual.cpu().numpy())
        else:
            yield _not_finite()


def _runs(pairs: Sequence[TokenisedPair], most_tokens: int) -> Iterator[Sequence[TokenisedPair]]:
    """Neighbours that have at most so many tokens together, or one that alone has more."""
    first = tokens = 0
    for place, pair in enumerate(pairs):
        if first < place and tokens + len(pair.ids) > most_tokens:
            yield pairs[first:place]
            first, tokens = place, 0
        tokens += len(pair.ids)
    if first < len(pairs):
        yield pairs[first:]


def _nonzero(tile: torch.Tensor, first_token: int, first_feature: int) -> _Fired:
    """What fires in a tile of shape (tokens, features), token by token."""
    fires = (tile != 0).reshape(-1)
    # On a CPU torch.nonzero takes twice as long.
    place = torch.nonzero(fires)[:, 0] if fires.is_cuda else torch.from_numpy(np.flatnonzero(fires.numpy()))
    token, feature = np.divmod(place.cpu().numpy(), tile.shape[1])
    value = tile.reshape(-1)[place].cpu().numpy()
    return (token + first_token).astype(np.int32), (feature + first_feature).astype(np.int32), value


def _not_finite() -> EngineError:
    return EngineError("the reader's activations overflowed or are NaN on this pair; its weights may be damaged")
