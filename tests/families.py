"""Small random readers of every supported family, in the directory layout their publishers release."""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from conftest import GEMMA_TEMPLATE, gemma_tokenizer
from scopewatch.reader.linear import PackedLinear

HIDDEN = 32
LAYERS = 4
HEADS = 4
WINDOW = 16
"""Tokens that a sliding layer sees."""
VOCABULARY = 512
PREFIXES = {
    "hub": "language_model.model.",
    "transformers 5": "model.language_model.",
    "text model": "model.",
}
"""What weight files of Gemma 3's multimodal wrapper write before the names of the text model."""

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    # Large, so that a norm without it would show.
    "rms_norm_eps": 0.01,
}
_GEMMA3 = _SIZES | {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 8.0},
    },
}
_QWEN = _SIZES | {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2, "bos_token_id": None}
_VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def weight_count(model: torch.nn.Module) -> int:
    """Numbers in a model, those of packed layers too."""
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    return sum([*(p.numel() for p in model.parameters()), *(m.in_features * m.out_features for m in packed)])


def save_weights(family: str, directory: Path, *, seed: int = 0) -> Path:
    """A random model with loud attention and with gains and biases that matter, as `config.json` and safetensors."""
    torch.manual_seed(seed)
    row = TABLE[family]
    model = row.model(row.config(**copy.deepcopy(row.settings)))
    loudness = {"q_proj": 2.0, "k_proj": 2.0}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            module = name.split(".")[-2]
            if name.endswith("bias"):
                weight.normal_(0, 0.3)
            elif "norm" in module:
                weight.add_(torch.randn_like(weight), alpha=0.3)
            elif weight.dim() > 1:
                weight.normal_(0, loudness.get(module, 1.0) / weight.shape[-1] ** 0.5)
    model.save_pretrained(directory)
    return directory


def load_untouched(family: str, directory: Path) -> PreTrainedModel:
    """The whole model as transformers itself loads it, for comparison."""
    row = TABLE[family]
    return row.model.from_pretrained(directory, attn_implementation=row.attention, dtype=torch.float32).eval()


def rename_weights(directory: Path, prefixes: Mapping[str, str]) -> None:
    """Rewrites `model.safetensors` with other beginnings of names; the first that fits counts."""
    file = directory / "model.safetensors"
    renamed = {}
    for name, weight in load_file(file).items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        renamed[prefixes.get(old, "") + name.removeprefix(old)] = weight
    save_file(renamed, file, metadata={"format": "pt"})


# Chat templates of the same form as the released ones.

GEMMA3_TEMPLATE = """{{ bos_token }}
{%- set system = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}
{%- for message in (messages[1:] if system else messages) %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}
{{- system if loop.first else '' }}
{{- message['content'] | trim }}
{{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""
LLAMA_TEMPLATE = """{{ bos_token }}
{%- set system = messages[0]['content'] | trim if messages[0]['role'] == 'system' else '' %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\nToday Date: ' }}
{{- (date_string if date_string is defined else '26 Jul 2024') + '\\n\\n' + system + '<|eot_id|>' }}
{%- for message in (messages[1:] if messages[0]['role'] == 'system' else messages) %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
QWEN2_TEMPLATE = """
{%- if messages[0]['role'] != 'system' %}
{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
QWEN3_TEMPLATE = """
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' %}
{%- set thought = message['content'].split('</think>')[0].split('<think>')[-1] if '</think>' in message['content'] else '' %}
{%- if loop.last %}{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}{% endif %}
{{- message['content'].split('</think>')[-1].lstrip('\\n') if loop.last or thought else message['content'] }}
{%- else %}{{ message['content'] }}{% endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
MISTRAL_TEMPLATE = """{{ bos_token }}
{%- set system = messages[0]['content'] + '\\n\\n' if messages[0]['role'] == 'system' else '' %}
{%- for message in (messages[1:] if system else messages) %}
{%- if message['role'] == 'user' %}
{{- '[INST] ' + (system if loop.last else '') + message['content'] + '[/INST]' }}
{%- else %}
{{- ' ' + message['content'] | trim + eos_token }}
{%- endif %}
{%- endfor %}"""

_TEXTS = [
    "The quick brown fox jumps over the lazy dog. It may rain tomorrow, perhaps.",
    "Insulin lowers blood sugar. The patient might have gout, but we are not sure.",
    "hello world, what is the answer to this question? I do not know the answer.",
]
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(specials: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, special_tokens=specials)
    tokenizer.train_from_iterator(_TEXTS, trainer)
    return tokenizer


def _save_llama_tokenizer(directory: Path) -> None:
    bos, eos = "<|begin_of_text|>", "<|eot_id|>"
    tokenizer = _byte_level([bos, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", eos])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos).save_pretrained(directory)


def _save_qwen_tokenizer(directory: Path) -> None:
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    learnt = json.loads(_byte_level([]).to_str())["model"]
    Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token="<|im_end|>",
        extra_special_tokens=specials[1:],
    ).save_pretrained(directory)


def _save_mistral_tokenizer(directory: Path) -> None:
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    byte_tokens = [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=specials + byte_tokens)
    tokenizer.train_from_iterator(["▁" + text.replace(" ", "▁") for text in _TEXTS], trainer)
    state = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)


@dataclass(frozen=True)
class Row:
    """What a test has to know of a family; settings use all that is special about it: windows, caps, rotary scaling."""

    config: type[PreTrainedConfig]
    settings: dict[str, Any]
    model: type[PreTrainedModel]
    tokenizer: Callable[[Path], None]
    template: str
    """The chat template, of the same form as the released one."""
    head_dim: int
    bos: str | None = "<bos>"
    gemma: bool = False
    """Whether there are norms behind attention and MLP, gains are 1 + weight, and embeddings are scaled."""
    root: str = "model"
    """Where the untouched model keeps its layers."""
    attention: str = "sdpa"
    """The attention that transformers itself computes right."""


def _save_gemma_tokenizer(directory: Path) -> None:
    gemma_tokenizer(directory, chat=False)


TABLE = {
    "gemma2": Row(
        Gemma2Config,
        _SIZES
        | {"head_dim": 16, "query_pre_attn_scalar": 16}
        | {"sliding_window": WINDOW, "attn_logit_softcapping": 5.0},
        Gemma2ForCausalLM,
        _save_gemma_tokenizer,
        GEMMA_TEMPLATE,
        head_dim=16,
        gemma=True,
        attention="eager",
    ),
    "gemma3_text": Row(
        Gemma3TextConfig,
        _GEMMA3,
        Gemma3ForCausalLM,
        _save_gemma_tokenizer,
        GEMMA3_TEMPLATE,
        head_dim=16,
        gemma=True,
    ),
    "gemma3": Row(
        Gemma3Config,
        {
            "text_config": _GEMMA3,
            "vision_config": _VISION | {"image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
            "boi_token_index": VOCABULARY - 3,
            "eoi_token_index": VOCABULARY - 2,
            "image_token_index": VOCABULARY - 1,
        },
        Gemma3ForConditionalGeneration,
        _save_gemma_tokenizer,
        GEMMA3_TEMPLATE,
        head_dim=16,
        gemma=True,
        root="model.language_model",
    ),
    "llama": Row(
        LlamaConfig,
        _SIZES
        | {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5000.0,
                "original_max_position_embeddings": 64,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        },
        LlamaForCausalLM,
        _save_llama_tokenizer,
        LLAMA_TEMPLATE,
        head_dim=8,
        bos="<|begin_of_text|>",
    ),
    "mistral": Row(
        MistralConfig,
        _SIZES | {"head_dim": 12, "sliding_window": WINDOW},
        MistralForCausalLM,
        _save_mistral_tokenizer,
        MISTRAL_TEMPLATE,
        head_dim=12,
        bos="<s>",
    ),
    "qwen2": Row(
        Qwen2Config,
        _QWEN | {"tie_word_embeddings": True},
        Qwen2ForCausalLM,
        _save_qwen_tokenizer,
        QWEN2_TEMPLATE,
        head_dim=8,
        bos=None,
    ),
    "qwen3": Row(
        Qwen3Config,
        _QWEN | {"head_dim": 16},
        Qwen3ForCausalLM,
        _save_qwen_tokenizer,
        QWEN3_TEMPLATE,
        head_dim=16,
        bos=None,
    ),
}
FAMILIES = tuple(TABLE)


def save_tokenizer(family: str, directory: Path, *, chat: bool = True) -> None:
    """A tokenizer built as the family's: vocabulary kind, normalisation, BOS or none, chat template."""
    TABLE[family].tokenizer(directory)
    if chat:
        (directory / "chat_template.jinja").write_text(TABLE[family].template)


def save_family(family: str, directory: Path, *, chat: bool = True) -> Path:
    """A whole reader directory: weights, configuration, tokenizer and chat template."""
    save_weights(family, directory)
    save_tokenizer(family, directory, chat=chat)
    return directory
