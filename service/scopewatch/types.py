"""Pairs, what is read of them and what fires: values that cross the borders of rooms.

They are immutable, named, and have units and shapes. What is said of a pair in the end stands in `verdicts`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scopewatch.identity import FeatureTable
from scopewatch.turn import Turn as Turn  # noqa: PLC0414  (to every room above it is one of these)

Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.intp]
TokenIds = Int32
"""Token ids of one text, shape (n_tokens,)."""
Rounding = Literal["none", "int8", "bfloat16"]
"""int8: each row of a decoder layer's matrices to 255 steps between plus and minus its largest magnitude, as dynamic
quantisation of linear layers does; bfloat16: every weight to eight significant bits."""


class Segment(IntEnum):
    """The part of the conversation that a token belongs to; TEMPLATE covers BOS, special and separator tokens."""

    TEMPLATE = 0
    PROMPT = 1
    RESPONSE = 2
    HISTORY = 3


class Cleaning(StrEnum):
    """Whether a watchlist judges the cleaned reading of a pair, in which nothing is hidden by odd characters."""

    NONE = "none"
    """The texts are read as they are."""
    BESIDE = "beside"
    """The texts are read both ways, and of each indicator the higher score counts."""
    INSTEAD = "instead"
    """Only the cleaned texts are read."""


ROLE = re.compile(r"[\w.-]([\w. -]*[\w.-])?")
"""What a role may be. A template writes roles as they are: with other characters one could begin a turn of another."""


@dataclass(frozen=True, slots=True)
class TemplateInputs:
    """What a chat template is given beside the messages; what is empty here is as the reader's settings say."""

    date: str = ""
    """The day that the template is told it is, `YYYY-MM-DD`."""
    tools: str = ""
    """The tools that the model was offered, as a JSON array."""
    documents: str = ""
    """The documents that the model was given, as a JSON array."""
    arguments: str = ""
    """The template's other arguments, such as `enable_thinking`, as a JSON object."""


NO_INPUTS = TemplateInputs()
"""What most callers give a chat template."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt and its response, as a caller wants them scored."""

    prompt: str
    response: str
    history: tuple[Turn, ...] = ()
    inputs: TemplateInputs = NO_INPUTS
    prompt_token_ids: tuple[int, ...] = ()
    """The tokens that the serving model was given, where the caller knows them; they are read as they are."""
    response_token_ids: tuple[int, ...] = ()
    """The tokens that the serving model wrote, where the caller knows them; they are read as they are."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of a pair the reader reads, in tokens."""

    tokens: int
    prompt_tokens: int
    response_tokens: int
    history_tokens: int
    prompt_tokens_dropped: int = 0
    response_tokens_dropped: int = 0
    history_tokens_dropped: int = 0
    windows: int = 1
    """The number of passes that the response was read in."""
    unlocated: tuple[str, ...] = ()
    """Texts, such as `history[2].content`, that were not found in what the chat template made of them: what it wrote in
    their place is read and not scored."""
    shortened: tuple[str, ...] = ()
    """Texts of which the chat template left something out, such as an earlier answer's thought: so did the model."""
    folded: bool = False
    """Whether the chat template refused the roles, and messages were folded into others."""
    unscored: tuple[str, ...] = ()
    """Segments, such as `prompt`, that hold text of which no token counts: nothing but special tokens, say."""
    invisible_chars: int = 0
    """Characters of the caller's texts that are not seen and stand at letters, such as a zero-width joiner."""
    lookalike_chars: int = 0
    """Characters of the caller's texts that look like other letters, such as full-width ones."""
    script: str = "none"
    """The script that most letters of the response belong to, one of `scripts.SCRIPTS`."""

    @property
    def remarkable(self) -> bool:
        """Whether the chat template changed a text, or a text has odd characters."""
        return bool(self.unlocated or self.shortened or self.folded or self.invisible_chars or self.lookalike_chars)

    @property
    def truncated(self) -> bool:
        """Whether a token of the caller's text was dropped."""
        return bool(self.prompt_tokens_dropped or self.response_tokens_dropped or self.history_tokens_dropped)


@dataclass(frozen=True, slots=True)
class ReadText:
    """A text of the caller's, as it is read."""

    segment: Segment
    text: str
    turn: int = 0
    """The index in the history, for a text of it."""
    starts: Int32 | None = None
    """Where each character of the text that is read stands in the caller's own; None where the two are the same."""
    ends: Int32 | None = None
    """One past the last code point that the character is made of."""


@dataclass(frozen=True, slots=True)
class TokenisedPair:
    """A pair as the reader reads it; all arrays have shape (n_tokens,).

    A long response is read in several windows, each a text of its own for the reader. They stand one behind the other
    here, and each token of the response belongs to its segment in one of them only.
    """

    ids: TokenIds
    segments: Int8
    """The `Segment` that each token belongs to."""
    turns: Int32
    """The index of the turn in the history for HISTORY tokens, 0 for all others."""
    starts: Int32
    """The first code point of each token in its segment's text; 0 for TEMPLATE tokens."""
    ends: Int32
    """One past the last code point of each token; 0 for TEMPLATE tokens."""
    coverage: Coverage
    window_tokens: tuple[int, ...] = ()
    """The number of tokens of each window; empty where there is only one."""
    rendering_digest: str = ""
    """SHA-256 over everything but the texts that decided what is read."""
    odd_shares: Mapping[Segment, float] = field(default_factory=dict)
    """The share of each segment's characters that hide or imitate letters."""
    texts: tuple[ReadText, ...] = ()
    """The caller's texts that the tokens are of."""

    @property
    def windows(self) -> list[TokenIds]:
        """The token ids of each window."""
        return (
            np.split(self.ids, np.cumsum(self.window_tokens[:-1], dtype=np.intp)) if self.window_tokens else [self.ids]
        )


@dataclass(frozen=True, slots=True)
class Activations:
    """Sparse activations of the watched features on one pair: what the engine gives and the cache keeps.

    The three arrays have shape (n_fired,) and are ordered by token, then by column. Values are finite and, except those
    of probes and of the reader's head, greater than 0.
    """

    n_tokens: int
    token: Int32
    """The index of the token in the pair."""
    column: Int32
    """The index of the feature in a `FeatureTable`, which stands beside the activations."""
    value: Float32


def in_a_row(parts: Sequence[Activations]) -> Activations:
    """The activations of texts that stand one behind the other, whose tokens are counted through."""
    starts = np.cumsum([0, *(part.n_tokens for part in parts)], dtype=np.int32)
    return Activations(
        n_tokens=int(starts[-1]),
        token=np.concatenate([part.token + start for part, start in zip(parts, starts, strict=False)]),
        column=np.concatenate([part.column for part in parts]),
        value=np.concatenate([part.value for part in parts]),
    )


@dataclass(frozen=True, slots=True)
class CoveredActivations:
    """The activations of one pair, and which features they cover."""

    activations: Activations
    table: FeatureTable
    """The features of the activations' columns."""


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """The engine's answer for one batch."""

    activations: list[Activations | Exception]
    """The activations of each pair, in the order of the input; an exception where the reader failed on that pair."""
    forward_s: float
    encode_s: float
    """The time of the SAEs' encoders. Inside a graph nothing is timed: of a pass that was replayed it is the share that
    they took of the pass before it was recorded."""
    reused_tokens: int = 0
    """The number of tokens that were not computed, since the same beginning had been read before."""
    table: FeatureTable = field(default_factory=FeatureTable)
    """The features that the columns of these activations belong to."""
    graph_tokens: tuple[int, ...] = ()
    """The length of each pass that was replayed from a graph."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as far as the pipeline has to know."""

    name: str = ""
    """The name in the role file; empty where there is none, and everybody is the same caller."""
    tenant: str = ""
    """Callers of one tenant share cached activations; those of two never do."""
    weight: float = 1.0
    """The caller's share of the engine where several callers wait, beside theirs."""
    behind: bool = False
    """Whether nobody waits for its verdicts: what is read for an explanation stands behind what is scored."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where in a trace that is kept a call stands, as https://www.w3.org/TR/trace-context/ writes it."""

    trace_id: str
    """32 hexadecimal digits."""
    span_id: str
    """The id of the call's own span, 16 hexadecimal digits."""


ANYONE = Caller()
"""Every caller of a service without a role file."""


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """One pair on its way through the pipeline, with what its caller wants of it."""

    pair: Pair
    watchlist: str
    """The name of the watchlist that is to judge; empty for the default one."""
    request_id: str
    include_evidence: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    deadline_s: float | None = None
    """When the caller stops waiting, on the clock of `time.monotonic`; None for never."""
    caller: Caller = ANYONE
    trace: Trace | None = None
    """The trace of its call; None where that is not traced."""
