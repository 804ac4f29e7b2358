"""The canary file: fixed pairs, and what a reader that works said of them. JSON, written by `canary record`.

    {"version": 1,
     "made_with": {"reader": …, "dtype": "float32", "saes": {"res": "sha256…"}, "template_digest": …, …},
     "pass_tokens": 96,
     "tolerances": {"float32": {"scores": 0.0001, "activations": 0.001}},
     "indicators": {"demo/speculation": "sha256 of all that decides its score but the files of reader and SAEs"},
     "pairs": [{"prompt": …, "response": …, "history": […],
                "readings": {"none": [{"tokens": "sha256 of the ids", "n_tokens": 41, "rendering": …,
                                       "activations": {"res/352": {"tokens": [12, 13], "values": [3.1, 0.7]}}}]},
                "scores": {"demo/speculation": 1.73}}]}

The texts of the pairs stand in it as they are.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from scopewatch.errors import DataError
from scopewatch.files import atomic_write
from scopewatch.sources import Several, Strict
from scopewatch.types import Cleaning, Pair, TemplateInputs, Turn
from scopewatch.watch.mistakes import mistakes_of
from scopewatch.watch.yaml_lines import Location

MOST_PAIRS = 64
_MAX_FILE_BYTES = 16 << 20
Dtype = Literal["float32", "bfloat16"]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Allowed = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class MadeWith(Strict):
    """What recorded the canaries, to tell what is another where they deviate."""

    scopewatch: str
    reader: str
    revision: str
    reader_digest: str
    dtype: Dtype
    device: str
    attention: str
    template_digest: str
    rendering_digest: str
    saes: dict[str, str]
    """The digest of each SAE or probe, by its name in the watchlists."""
    watchlists: dict[str, str]
    """The digest of each watchlist's file, by its name."""


class Tolerance(Strict):
    """How far what a reader says may lie from what was recorded."""

    scores: _Allowed
    """The most of `|score - recorded| / max(1, |recorded|)`."""
    activations: _Allowed
    """The most of the sum of all `|activation - recorded|` of a pair, as a share of the sum of all that is recorded."""


class Fired(Strict):
    """Where one feature fired in a reading, and how much; two lists of one length."""

    tokens: Several[Annotated[int, Field(ge=0)]]
    values: Several[_Finite]

    @model_validator(mode="after")
    def _one_value_a_token(self) -> Self:
        if len(self.tokens) != len(self.values):
            raise ValueError(f"holds {len(self.tokens)} tokens and {len(self.values)} values")
        return self


class RecordedReading(Strict):
    """One reading of a pair: which tokens, and what fired on them."""

    tokens: _Sha256
    """SHA-256 of the token ids, little-endian 32-bit integers."""
    n_tokens: int = Field(ge=1)
    rendering: _Sha256
    """As `types.TokenisedPair.rendering_digest`: of the chat template, the tokenizer and what else decides tokens."""
    activations: dict[str, Fired]
    """By `SAE/feature`; what did not fire has empty lists."""


class RecordedTurn(Strict):
    """As `types.Turn`."""

    role: str
    content: str
    fields: str = ""


class RecordedInputs(Strict):
    """As `types.TemplateInputs`."""

    date: str = ""
    tools: str = ""
    documents: str = ""
    arguments: str = ""


class RecordedPair(Strict):
    """A pair, and what was said of it."""

    prompt: str
    response: str
    history: Several[RecordedTurn] = ()
    inputs: RecordedInputs = RecordedInputs()
    prompt_token_ids: Several[int] = ()
    response_token_ids: Several[int] = ()
    readings: dict[Annotated[Cleaning, Field(strict=False)], Several[RecordedReading]]
    """By whether texts are cleaned, as the watchlists have it."""
    scores: dict[str, _Finite | None]
    """By `watchlist/indicator`; null where the indicator was skipped."""

    @property
    def pair(self) -> Pair:
        """The pair to read."""
        return Pair(
            self.prompt,
            self.response,
            tuple(Turn(**turn.model_dump()) for turn in self.history),
            TemplateInputs(**self.inputs.model_dump()),
            self.prompt_token_ids,
            self.response_token_ids,
        )


class CanaryFile(Strict):
    """A valid canary file."""

    version: Literal[1] = 1
    made_with: MadeWith
    pass_tokens: int = Field(ge=16)
    """The most tokens of one pass over these pairs."""
    tolerances: dict[Dtype, Tolerance] = Field(min_length=1)
    """By the dtype of the reader that is judged; one of another dtype is not as recorded, whatever it says."""
    indicators: dict[str, _Sha256] = Field(min_length=1)
    """The digest of each indicator's definition, by `watchlist/indicator`."""
    pairs: Several[RecordedPair] = Field(min_length=1, max_length=MOST_PAIRS)

    @model_validator(mode="after")
    def _scores_are_of_indicators(self) -> Self:
        for number, pair in enumerate(self.pairs):
            if pair.scores.keys() != self.indicators.keys():
                other = sorted(pair.scores.keys() ^ self.indicators.keys())
                raise ValueError(f"pairs[{number}].scores and indicators differ in {', '.join(other)}")
        return self

    @property
    def recorded_pairs(self) -> tuple[Pair, ...]:
        """The pairs to read."""
        return tuple(one.pair for one in self.pairs)

    def write(self, file: Path) -> str:
        """Writes the file, whole or not at all.

        Returns:
            SHA-256 of its bytes.

        Raises:
            DataError: It cannot be written.
        """
        content = json.dumps(self.model_dump(mode="json", exclude_defaults=True) | {"version": 1}, ensure_ascii=False)
        raw = (content + "\n").encode()
        try:
            with atomic_write(file) as part:
                part.write_bytes(raw)
        except OSError as error:
            raise DataError(f"{file}: cannot be written: {error.strerror or error}") from None
        return hashlib.sha256(raw).hexdigest()


class Recorded:
    """A canary file that was read.

    Args:
        document: What it says.
        file: Where it lies.
        digest: SHA-256 of its bytes.
    """

    def __init__(self, document: CanaryFile, file: Path, digest: str) -> None:
        self.document = document
        self.file = file
        self.digest = digest


def load_canaries(file: Path) -> Recorded:
    """Reads and validates a canary file.

    Raises:
        DataError: With one `file: field: problem` line for every mistake.
    """
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise DataError(f"{file}: larger than {_MAX_FILE_BYTES} bytes; a canary file is a small file")
        raw = file.read_bytes()
        value = json.loads(raw)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        told = f"{file}: not a canary file: no JSON ({error}); make one with `scopewatch canary record`"
        raise DataError(told) from None
    try:
        document = CanaryFile.model_validate(value)
    except ValidationError as error:
        lines = [f"{file}: {_path(place)}: {problem}" for place, problem in mistakes_of(error)]
        raise DataError("\n".join(dict.fromkeys(lines))) from None
    return Recorded(document, file, hashlib.sha256(raw).hexdigest())


def _path(place: Location) -> str:
    dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return dotted.removeprefix(".") or "the file"
