"""What runs, and what its numbers are known by: the reader, the SAEs and their features."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple


class Relation(StrEnum):
    """Whether the reader wrote the response itself or reads another model's text."""

    SAME_MODEL = "same_model"
    READER_MODEL = "reader_model"


@dataclass(frozen=True, slots=True)
class FeatureKey:
    """One watched feature: which SAE (its name in the watchlists, or its Neuronpedia source) and which column of it."""

    sae: str
    index: int

    def __str__(self) -> str:
        return f"{self.sae}/{self.index}"


class FeatureId(NamedTuple):
    """One feature by what makes its numbers, whatever watchlists call its SAE."""

    producer: bytes
    """16 bytes: a digest of the SAE, its hookpoint and the reader's layers up to there."""
    column: int
    """The feature's index in that SAE."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class FeatureTable:
    """Which feature each column of some activations belongs to.

    Tables are compared by identity: what is derived from one is remembered for as long as it lives.
    """

    features: tuple[FeatureId, ...] = ()


HEAD = "reader:head"
"""In place of an SAE's name, which has no colon: numbers of the reader's own predictions."""
LOGPROB = FeatureKey(HEAD, 0)
"""Log-probability of a token given those before it, in nats; 0 for a text's first."""
ENTROPY = FeatureKey(HEAD, 1)
"""Entropy of the distribution it was expected from, in nats; 0 for a text's first."""


@dataclass(frozen=True, slots=True)
class ReaderIdentity:
    """The reader as it runs, with everything that decides its activations."""

    name: str
    revision: str
    model_type: str
    digest: str
    """SHA-256 over the configuration and the weights that are loaded."""
    layers_run: int
    layers_total: int
    dtype: str
    device: str
    attention: str
    chat_template: bool
    template_digest: str = ""
    """SHA-256 of the chat template; empty where none is used."""
    rendering_digest: str = ""
    """SHA-256 over all that decides what is read of a pair but its texts, where its caller gives nothing else."""
    layer_digests: tuple[str, ...] = ()
    """What `digest` would be with only the embedding loaded, then with layer 0, with layers 0 and 1, and so on."""
    kernels: str = "plain"
    """Whose kernels compute what its layers do element by element: `plain` for those of torch, `fused` for our own."""
    graph_tokens: int = 0
    """The number of tokens of the largest pass that is replayed as a recorded graph; 0 where none is."""
    batch_invariant: bool = False
    """Whether a text's activations are the same to the last bit whatever texts are read with it (decision 0053)."""

    @property
    def decides(self) -> dict[str, object]:
        """By name, what decides the activations, for digests: equal readers of earlier versions have equal ones."""
        told = asdict(self)
        # A graph replays the same kernels.
        del told["graph_tokens"]
        if self.kernels == "plain":
            del told["kernels"]
        if self.device == "cpu":
            # There the same products run either way.
            del told["batch_invariant"]
        return told


@dataclass(frozen=True, slots=True)
class SaeIdentity:
    name: str
    format: str
    architecture: str
    hookpoint: str
    d_in: int
    d_sae: int
    digest: str
    watched: tuple[int, ...]
    """Watched feature indices, ascending."""
    neuronpedia: str = ""
    """`{model}/{source}` of the SAE's pages on Neuronpedia, for instance gemma-2-2b/20-gemmascope-res-16k; empty if it
    has none."""
    repo: str = ""
    """Hub repository it came from; empty for local files."""
    revision: str = ""
    """Commit of that repository."""


@dataclass(frozen=True, slots=True)
class EngineIdentity:
    """The reader and the SAEs as they run."""

    reader: ReaderIdentity
    saes: tuple[SaeIdentity, ...]
    head: bool = False
    """Whether the reader runs whole, with its head."""

    @property
    def decides(self) -> dict[str, object]:
        """By name, what decides the activations, for digests."""
        return asdict(self) | {"reader": self.reader.decides}

    @property
    def features(self) -> tuple[FeatureKey, ...]:
        """Watched features in the order of the engine's columns."""
        own = tuple(FeatureKey(sae.name, index) for sae in self.saes for index in sae.watched)
        return (*own, LOGPROB, ENTROPY) if self.head else own

    @property
    def feature_ids(self) -> tuple[FeatureId, ...]:
        """The same features by what makes their numbers."""
        own = [FeatureId(_producer(self.reader, sae), index) for sae in self.saes for index in sae.watched]
        if self.head:
            own += [prediction_id(signal, self.reader.digest) for signal in (LOGPROB, ENTROPY)]
        return tuple(own)


def prediction_id(signal: FeatureKey, reader_digest: str) -> FeatureId:
    """LOGPROB or ENTROPY by what makes its numbers: the reader of this digest."""
    return FeatureId(_digest(HEAD, reader_digest), signal.index)


def _producer(reader: ReaderIdentity, sae: SaeIdentity) -> bytes:
    layer = re.match(r"layers\.([0-9]+)\.", sae.hookpoint)
    # What comes before layer 0 is the embedding, the first of the digests.
    depth = int(layer[1]) + 1 if layer else 0
    layers = reader.layer_digests[depth] if depth < len(reader.layer_digests) else reader.digest
    return _digest(layers, sae.hookpoint, sae.digest)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()[:16]
