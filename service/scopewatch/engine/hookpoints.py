"""Where activations are taken. So far the residual stream after a layer."""

import re
from dataclasses import dataclass

from scopewatch.errors import SaeError

# The same place as scopewatch, Hugging Face module paths and TransformerLens write it.
_SPELLINGS = (
    re.compile(r"layers\.(\d+)(?:\.resid_post)?"),
    re.compile(r"(?:\w+\.)*layers\.(\d+)(?:\.output)?"),
    re.compile(r"blocks\.(\d+)\.hook_resid_post"),
)


@dataclass(frozen=True, slots=True, order=True)
class Hookpoint:
    """The output of decoder layer `layer`, counted from 0."""

    layer: int

    def __str__(self) -> str:
        return f"layers.{self.layer}.resid_post"


def parse_hookpoint(text: str) -> Hookpoint:
    """Reads `layers.20.resid_post`, `layers.20`, `model.layers.20.output` or `blocks.20.hook_resid_post`.

    Raises:
        SaeError: It is none of these.
    """
    for spelling in _SPELLINGS:
        if match := spelling.fullmatch(text):
            return Hookpoint(int(match[1]))
    raise SaeError(f"hookpoint {text!r} is not known; write it like layers.20.resid_post (the output of layer 20)")
