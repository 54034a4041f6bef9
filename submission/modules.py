"""Attention and norm on plain torch, the same for every arm and every device."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import divide
from torch import Tensor


class CausalAttention(MegatronModule):
    """Causal scaled-dot-product core attention with grouped queries, heads split over tensor-parallel ranks."""

    def __init__(
        self,
        config: Any,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        attention_dropout: float | None = None,
        softmax_scale: float | None = None,
        pg_collection: Any = None,
        **_: Any,
    ):
        super().__init__(config=config)
        if attn_mask_type != AttnMaskType.causal or config.context_parallel_size != 1:
            raise ValueError("this attention is causal and knows no context parallelism")
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(required_pgs=["tp"])
        self.heads = divide(config.num_attention_heads, groups.tp.size())
        self.query_groups = divide(config.num_query_groups, groups.tp.size())
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Any = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (sequence, batch, heads, head size); key and value have query_groups heads.

        Returns:
            (sequence, batch, heads * head size).
        """
        if attention_bias is not None or packed_seq_params is not None:
            raise ValueError("attention bias and packed sequences are not part of this model")
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=self.scale, enable_gqa=self.heads != self.query_groups
        )
        return out.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)


class RmsNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, marked for Megatron's gradient all-reduce under sequence parallelism."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any):
        if config.normalization != "RMSNorm" or config.layernorm_zero_centered_gamma:
            raise ValueError("this norm is RMSNorm with a plain gain")
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
