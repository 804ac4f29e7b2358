"""Launches and bytes of one pass, counted on tensors that have shapes only: what no device has to be there for."""

from launches import GEMMA_2_2B, model_of, pass_of, summary
from on_gpu.sections import Told
from on_gpu.stage import Stage

_TOKENS = (16_384, 512)
_MOST_LAUNCHES = 250


def trace(_stage: Stage, told: Told) -> None:
    """One pass of the shape of Gemma 2 2B down to layer 20, with plain and with fused layers."""
    for way in ("plain", "fused"):
        model = model_of(GEMMA_2_2B, fused=way == "fused")
        for tokens in _TOKENS:
            counted = summary(pass_of(model, tokens=tokens))
            told.figures(**{f"{way}, {tokens} tokens": counted})
            told.say(f"{way}, {tokens} tokens: {counted['launches']} launches, {counted['moved_GB']} GB moved")
    if (launches := counted["launches"]) > _MOST_LAUNCHES:
        told.broken([f"{launches} launches of fused layers, at most {_MOST_LAUNCHES}"])
