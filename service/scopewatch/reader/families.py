"""What is special about each supported family of readers: one row for each model type, and all else follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

UNIT = "mlp_in_unit"
INPUT_NORM = "input_layernorm"
"""The first module inside a decoder layer of every family."""

_EVERYWHERE = {
    "resid_pre": "input",
    "resid_post": "output",
    "attn_z": "self_attn.o_proj.input",
}
_LLAMA_SITES = _EVERYWHERE | {
    "resid_mid": "post_attention_layernorm.input",
    "attn_out": "self_attn.output",
    "mlp_in": "post_attention_layernorm.output",
    UNIT: "post_attention_layernorm.input",
    "mlp_out": "mlp.output",
}
# The only ones with norms behind attention and MLP.
_GEMMA_SITES = _EVERYWHERE | {
    "resid_mid": "pre_feedforward_layernorm.input",
    "attn_out": "post_attention_layernorm.output",
    "mlp_in": "pre_feedforward_layernorm.output",
    UNIT: "pre_feedforward_layernorm.input",
    "mlp_out": "post_feedforward_layernorm.output",
}


@dataclass(frozen=True, slots=True)
class Family:
    """What the code that loads and taps a reader has to know of its family."""

    title: str
    """What messages call the family."""
    sites: Mapping[str, str]
    """Each named site inside a decoder layer, and the path of the module there whose `.input` or `.output` it is."""
    activation: str
    """Field of the configuration that names the activation function of the MLPs."""
    epsilon: str
    """Attribute of an RMSNorm: what it adds to the mean square."""
    attention_softcap: str = ""
    """Field of the configuration, and attribute of each attention module, that caps attention logits. Without the cap
    activations would be wrong, so a reader that has it unset is refused. Empty where the family has no such cap."""
    logit_softcap: str = ""
    """Field of the configuration that caps the output head's logits, if it is set; empty where there is none."""
    gain_from_one: bool = False
    """Whether an RMSNorm's gain is 1 + weight, multiplied before rounding to the reader's type; elsewhere it is the
    weight, multiplied after that."""
    one_window: bool = False
    """Whether all layers have the configuration's `sliding_window`; elsewhere attention modules say whether."""


_gemma = partial(
    Family,
    sites=_GEMMA_SITES,
    activation="hidden_activation",
    epsilon="eps",
    logit_softcap="final_logit_softcapping",
    gain_from_one=True,
)
_llama = partial(Family, sites=_LLAMA_SITES, activation="hidden_act", epsilon="variance_epsilon")
FAMILIES: Mapping[str, Family] = {
    "gemma2": _gemma("Gemma 2", attention_softcap="attn_logit_softcapping"),
    # The multimodal wrapper, of which only the text model is loaded.
    "gemma3": _gemma("Gemma 3"),
    "gemma3_text": _gemma("Gemma 3"),
    "llama": _llama("Llama"),
    "mistral": _llama("Mistral", one_window=True),
    "qwen2": _llama("Qwen 2"),
    "qwen3": _llama("Qwen 3"),
}
"""The supported families, by the model type that `config.json` names."""


def named_sites() -> tuple[str, ...]:
    """The named sites inside a layer of any family."""
    return tuple(dict.fromkeys(site for family in FAMILIES.values() for site in family.sites))


def common_paths() -> dict[str, str]:
    """By module path, the named sites that stand for the same path in every family."""
    first, *others = (family.sites for family in FAMILIES.values())
    return {path: site for site, path in first.items() if all(sites.get(site) == path for sites in others)}


def modules_in_a_layer() -> tuple[str, ...]:
    """Names of the modules directly inside a decoder layer, in any family."""
    paths = (path.split(".") for family in FAMILIES.values() for path in family.sites.values())
    return tuple(dict.fromkeys([INPUT_NORM, *(names[0] for names in paths if len(names) > 1)]))
