"""Megatron's modules with fused kernels between their GEMMs (model.fusions), the same for every arm."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import TransformerLayer
from torch import Tensor

from kernels.fused.autograd import CrossEntropy, Norm, Rope, SwiGlu

ROPE, SWIGLU, CROSS_ENTROPY, NORM = "rope", "swiglu", "cross_entropy", "norm"
QUANTISE = "quantise"  # the norms and SwiGLU above quantise for the products around them: Linears.joint
_MOST_KEPT = 4  # pairs of sequence length and model in a process
_KEPT: dict[int, tuple[Tensor, Tensor, Tensor]] = {}  # angles, and their cosines and sines


class FusedAttention(SelfAttention):
    """Attention that splits and rotates queries, keys and values in one kernel."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, rotary_pos_emb: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Compute what Megatron's attention does in training, without inference, packed sequences or biases.

        Args:
            hidden_states: (sequence, batch, hidden).
            rotary_pos_emb: (sequence, 1, 1, head size) fp32 angles, the second half equal to the first.
        """
        mixed, (queries, head, _) = self.get_query_key_value_tensors(hidden_states, split_qkv=False)
        cos, sin = _tables(rotary_pos_emb)
        query, key, value = Rope.apply(mixed, cos, sin, queries // head)
        attended = self.core_attention(query, key, value, attention_mask, attn_mask_type=self.attn_mask_type)
        out: tuple[Tensor, Tensor | None] = self.linear_proj(attended)
        return out


def _tables(angles: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (sequence, pairs), computed once for the angles that Megatron keeps.

    The key is the memory of the angles, because activation recompute passes other tensors with the same memory. The
    entry keeps the angles alive, so that no other tensor gets this memory.
    """
    key = angles.untyped_storage()._cdata
    if key not in _KEPT:
        while len(_KEPT) >= _MOST_KEPT:
            del _KEPT[next(iter(_KEPT))]
        pairs = angles.detach().flatten(1).chunk(2, 1)[0].float()
        _KEPT[key] = (angles, pairs.cos(), pairs.sin())
    return _KEPT[key][1:]


class FusedMlp(MLP):
    """An MLP that computes SwiGLU in one kernel, and its gradient in another."""

    def forward(self, hidden_states: Tensor, per_token_scale: Any = None, **_: Any) -> tuple[Tensor, None]:
        if per_token_scale is not None:
            raise ValueError("model.fusions: swiglu does not support experts; leave swiglu out")
        mixed, _ = self.linear_fc1(hidden_states)
        defers, gradient_defers = (
            _joins(self.linear_fc2, "joins_input"),
            _joins(self.linear_fc1, "joins_gradient"),
        )
        out, _ = self.linear_fc2(SwiGlu.apply(mixed, defers, gradient_defers))
        return out, None


class FusedLayer(TransformerLayer):
    """A layer that adds to the residual stream and normalises it in one kernel, and computes their gradient in one."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_pos_emb: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Compute what Megatron's layer does in training, without cross attention and dropout."""
        stream, normed = _norm(self.input_layernorm, hidden_states, None, self.self_attention.linear_qkv)
        branch, _ = self.self_attention(normed, attention_mask=attention_mask, rotary_pos_emb=rotary_pos_emb)
        stream, normed = _norm(self.pre_mlp_layernorm, branch, stream, self.mlp.linear_fc1)
        branch, _ = self.mlp(normed)
        return stream + branch, None


def _norm(module: Any, branch: Tensor, stream: Tensor | None, behind: Any) -> tuple[Tensor, Tensor]:
    defers = _joins(behind, "joins_input")
    found: tuple[Tensor, Tensor] = Norm.apply(branch, stream, module.weight, module.eps, defers)
    return found


def _joins(linear: Any, what: str) -> bool:
    """Whether a linear quantises a deferred operand itself; linears of Transformer Engine do not."""
    return hasattr(linear, what) and getattr(linear, what)()


class FusedLlama(GPTModel):
    """A model that computes the loss from BF16 logits without an FP32 copy; the gradient overwrites the logits."""

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return cross entropy (batch, sequence) of labels (batch, sequence), logits (sequence, batch, shard)."""
        first = parallel_state.get_tensor_model_parallel_rank() * logits.size(-1)
        transposed = labels.transpose(0, 1).contiguous()
        loss: Tensor = CrossEntropy.apply(logits, transposed, first, _over_shards)
        return loss.transpose(0, 1).contiguous()


def _over_shards(log_sums: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    group = parallel_state.get_tensor_model_parallel_group()
    if group.size() == 1:
        return log_sums, chosen
    largest = log_sums.clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    sums = torch.stack((torch.exp(log_sums - largest), chosen))
    dist.all_reduce(sums, group=group)
    return largest + sums[0].log(), sums[1]


def attention_class(fusions: Collection[str]) -> type[SelfAttention]:
    return FusedAttention if ROPE in fusions else SelfAttention


def mlp_class(fusions: Collection[str]) -> type[MLP]:
    return FusedMlp if SWIGLU in fusions else MLP


def layer_class(fusions: Collection[str]) -> type[TransformerLayer]:
    return FusedLayer if NORM in fusions else TransformerLayer


def model_class(fusions: Collection[str]) -> type[GPTModel]:
    return FusedLlama if CROSS_ENTROPY in fusions else GPTModel


def found(model: GPTModel) -> tuple[str, ...]:
    """Return the fusions of a built model, for the proof."""
    layer = model.decoder.layers[0]
    parts = {
        ROPE: (layer.self_attention, FusedAttention),
        SWIGLU: (layer.mlp, FusedMlp),
        CROSS_ENTROPY: (model, FusedLlama),
        NORM: (layer, FusedLayer),
    }
    named = tuple(name for name, (part, kind) in parts.items() if isinstance(part, kind))
    return (*named, QUANTISE) if any(_is_joint(layer, named) for layer in model.decoder.layers) else named


def _is_joint(layer: Any, fusions: Collection[str]) -> bool:
    before = [
        (NORM, layer.self_attention.linear_qkv),
        (NORM, layer.mlp.linear_fc1),
        (SWIGLU, layer.mlp.linear_fc2),
    ]
    return any(name in fusions and _joins(linear, "joins_input") for name, linear in before)
