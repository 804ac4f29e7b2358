"""Neuronpedia's exports: rows of explanations or of features, read a line at a time.

An export is JSON lines, usually gzipped: `v1/{model}/{source}/{explanations|features}/batch-{n}.jsonl.gz` in the bucket
`neuronpedia-datasets`. The columns are those of `export-data.py` in hijohnnylin/neuronpedia; which of them may be null
is in its `schema.prisma`.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from scopewatch.errors import LabelError

MAX_LINE_BYTES = 4 << 20
"""Longest row that is read; a feature's, with its vector and histograms, takes some 100 kB."""
_REFUSED_MODEL, _REFUSED_SOURCE = "gemma-2-2b", "gemmascope-transcoder-16k"
_Part = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def _on_one_line(text: str) -> str:
    """The text without control and direction characters, which could make a terminal show something else."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


_Line = Annotated[str, AfterValidator(_on_one_line)]


class ExportedRow(BaseModel):
    """One row of an export, as far as it is kept: an explanation of a feature, or a feature's statistics."""

    model_config = ConfigDict(frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    model: _Part = Field(alias="modelId")
    source: _Part = Field(alias="layer")
    index: str = Field(pattern="^(0|[1-9][0-9]{0,8})$")
    description: _Line = ""
    method: _Line | None = Field(None, alias="typeName")
    """How the explanation was made."""
    explainer: _Line | None = Field(None, alias="explanationModelName")
    """The model that wrote the explanation."""
    max_act_approx: float | None = Field(None, alias="maxActApprox")
    frac_nonzero: float | None = None

    @property
    def explains(self) -> bool:
        """Whether the row is an explanation."""
        return "description" in self.model_fields_set

    @property
    def feature(self) -> tuple[str, int]:
        """The feature's source, `{model}/{source}`, and its index."""
        return f"{self.model}/{self.source}", int(self.index)

    @model_validator(mode="after")
    def _is_of_use(self) -> Self:
        if not self.explains and not {"max_act_approx", "frac_nonzero"} <= self.model_fields_set:
            raise ValueError(
                "neither an explanation (with description) nor a feature (with maxActApprox, frac_nonzero)"
            )
        if self.model == _REFUSED_MODEL and self.source.endswith(_REFUSED_SOURCE):
            # apps/inference/scripts/gemma_transcoder_hook_check.py in hijohnnylin/neuronpedia.
            raise ValueError(
                f"labels of {self.model}/{self.source} are refused: they were made from the raw residual stream, which "
                "these transcoders do not read; its activations are off by a factor of 12 in the median"
            )
        return self


def read_export(file: Path) -> Iterator[ExportedRow]:
    """The rows of an export file, gzipped or not; never more than one of them is in memory.

    Raises:
        LabelError: The file cannot be read, holds no rows, or a row is wrong; names the file, and the line if any.
    """
    number = 0
    for number, line in _lines(file):
        try:
            yield ExportedRow.model_validate_json(line)
        except ValidationError as error:
            raise LabelError(f"{file}:{number}: {_problem(error)}") from None
    if not number:
        raise LabelError(f"{file}: holds no rows")


def _problem(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, gzipped or not, with their numbers from 1."""
    number = 0
    try:
        with file.open("rb") as raw:
            gzipped = raw.peek(2)[:2] == b"\x1f\x8b"
            stream = gzip.GzipFile(fileobj=raw) if gzipped else raw
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise LabelError(f"{file}:{number}: longer than {MAX_LINE_BYTES} bytes; no row of an export is")
                yield number, line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise LabelError(f"{file}:{number + 1}: damaged gzip data: {error}") from None
    except OSError as error:
        raise LabelError(f"{file}: cannot be read: {error.strerror}") from None
