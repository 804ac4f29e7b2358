"""The parts of a decoder, each in as few kernels as it can be run in while nobody listens inside it.

Each class here goes before a class of transformers' (`Gemma2MLP`, ...) among the bases of a part's class, and takes the
place of its `forward` alone: names, weights and attributes stay, and so do the places where hooks are attached. A part
that is heard inside runs as transformers wrote it, and of parts that run as they are here. So a hook costs no more than
the kernels it cuts in two.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from scopewatch.reader.fused.operators import add_norm, gated, norm_add, norm_add_norm, rms_norm, rotary
from scopewatch.reader.products import product


@dataclass(frozen=True, slots=True)
class Norming:
    """How a reader's norms compute."""

    eps: float
    """What they add to the mean square."""
    from_one: bool
    """Whether their gain is 1 + weight; see `operators`."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Linear layers of one input as one product."""

    weight: torch.Tensor
    """Shape (out_features of all, in_features); the layers' own weights are parts of it."""
    bias: torch.Tensor | None
    """Shape (out_features of all,)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The layers' outputs side by side, (..., in_features) to (..., out_features of all)."""
        return product(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Attending:
    """What an attention module does before its last product."""

    inside: tuple[torch.nn.Module, ...]
    """The modules that do it where transformers wrote it."""
    joined: Joined
    """The product of queries, keys and values."""
    q_heads: int
    kv_heads: int
    q_gain: torch.Tensor | None
    """Weight of the norm over each head of queries, shape (head_dim,); None where there is none."""
    k_gain: torch.Tensor | None
    norming: Norming
    how: dict[str, Any]
    """What the attention is told of the layer: scaling, window, soft cap."""


@dataclass(frozen=True, slots=True)
class Gating:
    """What a gated MLP does before its last product."""

    inside: tuple[torch.nn.Module, ...]
    """The modules that do it where transformers wrote it."""
    joined: Joined
    """The product of gate and up."""
    activation: str
    """Name of the activation function, one of `operators.ACTIVATIONS`."""


def heard(*modules: torch.nn.Module) -> bool:
    """Whether somebody listens to one of some modules, or changes what it is given or gives."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)  # noqa: SLF001 - torch offers no public name for it


class FusedNorm(torch.nn.Module):
    """An RMSNorm; `norming` says how."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        """The norm of vectors, (..., d) to the same shape."""
        return rms_norm(hidden_states, self.weight, self.norming.eps, self.norming.from_one)


class FusedMlp(torch.nn.Module):
    """A gated MLP; `gating` says how."""

    @property
    def product_weights(self: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weights and biases of the products that no module of its own makes."""
        return [(self.gating.joined.weight, self.gating.joined.bias)]

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        """The MLP's output, (..., d) to the same shape."""
        gating: Gating = self.gating
        if heard(*gating.inside):
            return super().forward(x)  # type: ignore[no-any-return]
        out: torch.Tensor = self.down_proj(gated(gating.joined(x), gating.activation))
        return out


class FusedAttention(torch.nn.Module):
    """An attention module; `attending` says how."""

    @property
    def product_weights(self: Any) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Weights and biases of the products that no module of its own makes."""
        return [(self.attending.joined.weight, self.attending.joined.bias)]

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **told: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the attention gives to the stream, (rows, tokens, d) to the same shape, and weights or None.

        Arguments are those of transformers' attention modules.
        """
        does: Attending = self.attending
        if past_key_values is not None or heard(*does.inside):
            return super().forward(  # type: ignore[no-any-return]
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **told,
            )
        qkv, norming = does.joined(hidden_states), does.norming
        turned = rotary(
            qkv,
            *position_embeddings,
            does.q_heads,
            does.kv_heads,
            does.q_gain,
            does.k_gain,
            norming.eps,
            norming.from_one,
        )
        query, key = turned[..., : does.q_heads, :], turned[..., does.q_heads :, :]
        value = qkv.view(*qkv.shape[:-1], -1, self.head_dim)[..., does.q_heads + does.kv_heads :, :]
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]  # noqa: SLF001 - transformers offers no public name for it
        heads = (each.transpose(1, 2) for each in (query, key, value))
        seen, weights = attend(self, *heads, attention_mask, dropout=0.0, **does.how, **told)
        return self.o_proj(seen.flatten(-2)), weights


class FusedLayer(torch.nn.Module):
    """A decoder layer with a norm before attention and one before the MLP."""

    def forward(self: Any, hidden_states: torch.Tensor, **told: Any) -> torch.Tensor:
        """The stream behind the layer, (rows, tokens, d) to the same shape; arguments are those of transformers'."""
        norm = self.post_attention_layernorm
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **told)
        if heard(norm):
            middle = hidden_states + attended
            mlp_in = norm(middle)
        else:
            middle, mlp_in = add_norm(attended, hidden_states, norm.weight, norm.norming.eps, norm.norming.from_one)
        return middle + self.mlp(mlp_in)  # type: ignore[no-any-return]


class FusedGemmaLayer(torch.nn.Module):
    """A decoder layer with norms before and behind attention and MLP."""

    def forward(self: Any, hidden_states: torch.Tensor, **told: Any) -> torch.Tensor:
        """The stream behind the layer, (rows, tokens, d) to the same shape; arguments are those of transformers'."""
        behind, before, last = (
            self.post_attention_layernorm,
            self.pre_feedforward_layernorm,
            self.post_feedforward_layernorm,
        )
        norming = last.norming
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **told)
        if heard(behind, before):
            middle = hidden_states + behind(attended)
            mlp_in = before(middle)
        else:
            middle, mlp_in = norm_add_norm(
                attended, hidden_states, behind.weight, before.weight, norming.eps, norming.from_one
            )
        made = self.mlp(mlp_in)
        if heard(last):
            return middle + last(made)  # type: ignore[no-any-return]
        return norm_add(made, middle, last.weight, norming.eps, norming.from_one)
