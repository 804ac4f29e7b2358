"""Makes a reader directory of a GGUF file of the Llama family: weights in bfloat16, configuration, tokenizer, template.

GGUF's keys, token types and blocks are those of ggml's docs/gguf.md and of its Python package. llama.cpp's converter
(`LlamaModel.permute`) puts the rows of each head's query and key projections in the order of pairs that rotate
together; here they go back into halves, as transformers rotates them.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderTensor, TokenType, dequantize
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from scopewatch.errors import ReaderError
from scopewatch.types import Float32

_EXPECTED = {
    "general.architecture": "llama",
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.ggml.add_space_prefix": False,
}
"""What this conversion is right for."""
_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""What transformers calls each kind of tensor; those of a layer without their beginning."""
_HEADS = {"attn_q": "head_count", "attn_k": "head_count_kv"}
"""The kinds of tensors whose rows are permuted, and the field that says of how many heads they are."""
_PLAIN = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
_STEPPED = {GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0}
"""Quantised types whose blocks of 32 weights begin with their step, in float16."""


@dataclass(slots=True)
class Rounding:
    """What storing did to one kind of tensor; the sums run over all its weights."""

    kind: str
    """The kind as GGUF calls it, such as attn_q."""
    stored_as: str
    """GGUF's name of the type, such as Q4_1."""
    weights: int = 0
    """The number of weights."""
    square_sum: float = 0.0
    """The sum of the squared weights."""
    quantisation_square_sum: float = 0.0
    """The expected sum of squared errors of the quantisation."""
    bfloat16_square_sum: float = 0.0
    """The sum of squared errors of rounding the dequantised weights to bfloat16."""

    def relative(self, square_sum: float) -> float:
        """The root mean square of errors, as a share of that of the weights."""
        return float(np.sqrt(square_sum / self.square_sum))


def convert(file: Path, directory: Path) -> list[Rounding]:
    """Writes the reader directory of a GGUF file.

    Args:
        file: The GGUF file.
        directory: An empty folder.

    Returns:
        What storing did to the weights, for each kind of tensor.

    Raises:
        OSError: A file cannot be written.
        ReaderError: The file is of a kind that this conversion is not made for.
    """
    gguf = GGUFReader(file)
    fields = {name: field.contents() for name, field in gguf.fields.items()}
    for key, expected in _EXPECTED.items():
        if fields.get(key) != expected:
            raise ReaderError(f"{file}: {key} is {fields.get(key)!r}; only {expected!r} is converted")
    _write_tokenizer(fields, directory)
    tied = all(tensor.name != "output.weight" for tensor in gguf.tensors)
    _write_json(directory / "config.json", _configuration(fields, tied=tied))
    roundings: dict[tuple[str, str], Rounding] = {}
    weights = {}
    for tensor in gguf.tensors:
        name, kind = _named(tensor, file)
        exact = np.array(dequantize(tensor.data, tensor.tensor_type), np.float32)
        rounded = torch.from_numpy(exact).to(torch.bfloat16)
        stored_as = tensor.tensor_type.name
        rounding = roundings.setdefault((kind, stored_as), Rounding(kind, stored_as))
        _count(rounding, tensor, exact, rounded.float().numpy())
        heads = fields[f"llama.attention.{_HEADS[kind]}"] if kind in _HEADS else 0
        weights[name] = _halves(rounded, heads) if heads else rounded
    try:
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(None, str(error)) from None
    # safetensors lets nobody but its writer read the file.
    shutil.copymode(directory / "config.json", directory / "model.safetensors")
    return list(roundings.values())


def _named(tensor: ReaderTensor, file: Path) -> tuple[str, str]:
    """What transformers calls a tensor, and of which kind it is.

    Raises:
        ReaderError: It is of no kind, or stored in a way, that this conversion knows.
    """
    *block, kind, part = tensor.name.split(".")
    if part != "weight" or kind not in _NAMES or tensor.tensor_type not in _PLAIN | _STEPPED:
        raise ReaderError(f"{file}: {tensor.name}, stored as {tensor.tensor_type.name}, is not converted")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{_NAMES[kind]}.weight", kind


def _halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a projection with the two halves of each head behind each other, not in turn."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()


def _count(rounding: Rounding, tensor: ReaderTensor, exact: Float32, rounded: Float32) -> None:
    """Adds a tensor's weights and errors to those of its kind."""

    def square_sum(values: np.ndarray[Any, Any]) -> float:
        return float(np.square(values, dtype=np.float64).sum())

    rounding.weights += exact.size
    rounding.square_sum += square_sum(exact)
    rounding.bfloat16_square_sum += square_sum(exact - rounded)
    if tensor.tensor_type in _STEPPED:
        length, size = GGML_QUANT_SIZES[tensor.tensor_type]
        steps = tensor.data.reshape(-1, size)[:, :2].copy().view(np.float16)
        # A value that falls anywhere between two steps of d is off by d / sqrt(12), root mean square.
        rounding.quantisation_square_sum += square_sum(steps) * length / 12


def _configuration(fields: Mapping[str, Any], *, tied: bool) -> dict[str, Any]:
    """`config.json` as transformers reads it.

    Args:
        fields: The file's fields.
        tied: Whether the output head is the embedding.
    """
    llama = {name.removeprefix("llama."): value for name, value in fields.items() if name.startswith("llama.")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": llama["vocab_size"],
        "hidden_size": llama["embedding_length"],
        "intermediate_size": llama["feed_forward_length"],
        "num_hidden_layers": llama["block_count"],
        "num_attention_heads": llama["attention.head_count"],
        "num_key_value_heads": llama["attention.head_count_kv"],
        "head_dim": llama["rope.dimension_count"],
        "max_position_embeddings": llama["context_length"],
        "rms_norm_eps": _decimal(llama["attention.layer_norm_rms_epsilon"]),
        "rope_parameters": {"rope_type": "default", "rope_theta": _decimal(llama["rope.freq_base"])},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def _decimal(number: float) -> float:
    """The number that was meant by one that went through float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _write_tokenizer(fields: Mapping[str, Any], directory: Path) -> None:
    """Writes the tokenizer and its settings, with the chat template."""
    tokens = fields["tokenizer.ggml.tokens"]
    types = fields["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    # What SmolLM publishes, and llama.cpp calls `smollm`: digits stand alone, the rest is split as GPT-2 splits.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(directory / "tokenizer.json"))
    named = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    settings = {f"{name}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for name, key in named.items()}
    settings |= {
        # transformers makes the pre-tokenizer of a GPT2Tokenizer anew, without what stands in the file of digits.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": fields["llama.context_length"],
        "chat_template": fields["tokenizer.chat_template"],
    }
    _write_json(directory / "tokenizer_config.json", settings)


def _write_json(file: Path, value: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
