"""What explanations ask of an engine that serves, on its own reader: see `looks.Looks`."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from scopewatch.engine.build import Engine
from scopewatch.engine.heard import hear
from scopewatch.engine.looks import Looked, Removed, Steps
from scopewatch.engine.opened import OpenedSaes
from scopewatch.engine.removal import Written, taken_out, values_of
from scopewatch.engine.runner import Runner
from scopewatch.engine.watching import LoadedSae, Watching, watching_of
from scopewatch.engine.whole import WholeDictionary
from scopewatch.engine.whole_look import WholeLook
from scopewatch.errors import SaeError
from scopewatch.identity import FeatureKey
from scopewatch.reader.hookpoints import edit
from scopewatch.types import CoveredActivations, TokenisedPair, in_a_row


class Inside:
    """Looks into the reader of an engine that serves; call it where batches run, between two of them.

    Args:
        engine: The engine. Whatever it watches when something is asked is what is looked at.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._opened = OpenedSaes(engine.reader, engine.config)
        self._seen: tuple[Watching, Watching] | None = None
        self._written: tuple[bytes, Watching, list[Written]] | None = None

    @property
    def has_head(self) -> bool:
        """Whether the reader's head is loaded, so that its own predictions can be told."""
        return self._engine.reader.head is not None

    def read(self, tokens: TokenisedPair) -> CoveredActivations:
        """What fires on a pair of every watched feature, and, wherever the head is loaded, LOGPROB and ENTROPY.

        Raises:
            EngineError: The reader fails on the pair.
        """
        runner, watching = self._runner()
        return CoveredActivations(in_a_row([runner.alone(window) for window in tokens.windows]), watching.table)

    @torch.inference_mode()
    def look(self, tokens: TokenisedPair, top: int) -> Steps[list[Looked]]:
        """What every whole SAE that is watched makes of a pair; one for each, in the order of their names.

        Args:
            tokens: The pair.
            top: How many features are told of each segment and of each token, at most.

        Raises:
            EngineError: The reader fails on the pair.
        """
        watched = sorted(self._engine.watching.saes, key=lambda sae: sae.name)
        opened = yield from self._opened.of(watched)
        there = [one for one in opened.values() if isinstance(one, WholeDictionary)]
        heard = yield from hear(self._engine.reader, tokens, {place for one in there for place in one.places})
        looked = []
        for sae in watched:
            dictionary = opened[sae.name]
            try:
                if isinstance(dictionary, SaeError):
                    raise dictionary
                looked.append((yield from WholeLook(sae.name, dictionary, tokens, heard, top).steps()))
            except SaeError as error:
                looked.append(_not_looked(sae, len(tokens.ids), str(error)))
        return looked

    @torch.inference_mode()
    def remove(
        self, tokens: TokenisedPair, features: Sequence[FeatureKey], *, seed: int | None = None
    ) -> Steps[Removed]:
        """Reads a pair while features are taken out: on every token, activation times decoder row.

        It is taken out where their SAE reads, or where it writes, if that is elsewhere.

        Args:
            tokens: The pair.
            features: Watched features of SAEs that have a decoder.
            seed: None takes out the features themselves; a number, in place of each the decoder row of another feature,
                drawn by it, and at every token as much of the sum as has the same norm.

        Raises:
            SaeError: An SAE of them has no decoder, or nothing can be taken out where it reads.
            EngineError: The reader fails on the pair.
        """
        runner, watching = self._runner()
        out = taken_out((yield from self._what_they_wrote(tokens, features, watching, runner)), seed)
        parts = []
        for window, edits in zip(tokens.windows, out.edits([len(window) for window in tokens.windows]), strict=True):
            parts.append(runner.alone(window, edits))
            yield
        return Removed(CoveredActivations(in_a_row(parts), watching.table), out.share)

    def _runner(self) -> tuple[Runner, Watching]:
        """A runner of what is watched, with the reader's own predictions wherever its head is loaded."""
        engine = self._engine
        if self._seen is None or self._seen[0] is not engine.watching:
            watching = engine.watching
            if self.has_head and not watching.identity.head:
                # Known by the reader as it serves, by which those who ask for them know them.
                watching = watching_of(watching.identity.reader, watching.saes, head=True)
            self._seen = engine.watching, watching
        watching = self._seen[1]
        return engine.runner.aside(watching.table), watching

    def _what_they_wrote(
        self, tokens: TokenisedPair, features: Sequence[FeatureKey], watching: Watching, runner: Runner
    ) -> Steps[list[Written]]:
        """What features write on a pair, SAE by SAE; that of the last pair is remembered, for as much at random."""
        asked = hashlib.sha256(repr((tokens.ids.tobytes(), tokens.window_tokens, tuple(features))).encode()).digest()
        if self._written and self._written[0] == asked and self._written[1] is watching:
            return self._written[2]
        self._written = None
        dictionaries = yield from self._writable(features, watching)
        heard = yield from hear(
            self._engine.reader, tokens, {place for one in dictionaries.values() for place in one.places}
        )
        parts = []
        for window in tokens.windows if dictionaries else []:
            parts.append(runner.alone(window))
            yield
        written = []
        for name, dictionary in dictionaries.items():
            own = sorted({feature.index for feature in features if feature.sae == name})
            columns = [watching.identity.features.index(FeatureKey(name, index)) for index in own]
            values = torch.from_numpy(values_of(in_a_row(parts), columns)).to(self._engine.reader.device)
            written.append(Written(dictionary, np.array(own, np.intp), values, heard))
        self._written = asked, watching, written
        return written

    def _writable(self, features: Sequence[FeatureKey], watching: Watching) -> Steps[dict[str, WholeDictionary]]:
        """The dictionaries of some features, by their names, in order.

        Raises:
            SaeError: A feature is not watched, an SAE has no decoder, or nothing can be taken out where it writes.
        """
        if unknown := [feature for feature in features if feature not in watching.identity.features]:
            raise SaeError(f"{unknown[0]}: is not watched, so that it cannot be taken out")
        opened = yield from self._opened.of(watching.saes)
        found = {}
        for name in sorted({feature.sae for feature in features}):
            dictionary = opened.get(name, SaeError("is no feature of an SAE"))
            if isinstance(dictionary, SaeError):
                raise SaeError(f"{name}: nothing of it can be taken out: {dictionary}")
            if dictionary.writes is None:
                raise SaeError(f"{name}: nothing of it can be taken out: {dictionary.problem}")
            with self._engine.reader.turn:
                edit(self._engine.reader, dictionary.writes, torch.clone).remove()
            found[name] = dictionary
        return found


def _not_looked(sae: LoadedSae, n_tokens: int, problem: str) -> Looked:
    return Looked(
        sae=sae.name,
        d_sae=sae.watched.d_sae,
        hookpoint=str(sae.hookpoint),
        feature=np.empty((n_tokens, 0), np.int32),
        value=np.empty((n_tokens, 0), np.float32),
        segments=(),
        l0=0.0,
        unexplained=None,
        shares={},
        problem=problem,
    )
