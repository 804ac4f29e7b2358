"""A text model without its weights, and with them: what transformers' own loader does for dense decoders, in less time.

Transformers makes models on torch's `meta` device, whose operators are written in Python and import torch's compiler;
here only weights are put there, and all that a model computes for itself, such as its rotary frequencies, is real.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_MAPPING

_MAKERS = {torch.empty, torch.zeros, torch.ones}
"""What modules make their weights with."""
_COMPUTED = "rotary_emb.inv_freq"


def bare_model(config: Any, attention: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Makes a text model whose weights have a shape, a type and no memory.

    Args:
        config: The text model's configuration.
        attention: The name of the attention that it runs.
        dtype: The type of the weights.

    Raises:
        Exception: Anything, where transformers or torch cannot use a value of the configuration.
    """
    family: Any = MODEL_MAPPING[type(config)]
    with no_init_weights(), _WithoutMemory():
        # As `AutoModel.from_config` does.
        model: PreTrainedModel = family._from_config(config, attn_implementation=attention, dtype=dtype)  # noqa: SLF001
    return model


def fill(model: PreTrainedModel, weights: Mapping[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Gives a bare model its weights.

    Args:
        model: From `bare_model`.
        weights: The weights by name, of the shapes that the model has. They are given its type, without a copy where
            they have it; tables of rotary frequencies, which old files hold, are left out.

    Returns:
        The names of weights that are lacking, and of those that it has no place for.
    """
    types = {name: weight.dtype for name, weight in model.state_dict().items()}
    named = {name: weight for name, weight in weights.items() if not name.endswith(_COMPUTED)}
    typed = {name: weight.to(types.get(name, weight.dtype)) for name, weight in named.items()}
    found = model.load_state_dict(typed, strict=False, assign=True)
    return sorted(found.missing_keys), sorted(found.unexpected_keys)


class _WithoutMemory(TorchFunctionMode):
    """Puts what modules make for weights onto the `meta` device."""

    def __torch_function__(self, function: Any, _types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        return function(*given, **(named | {"device": "meta"} if function in _MAKERS else named))
