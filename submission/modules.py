"""Attention and norm of the model, the same for every arm: torch's, or Transformer Engine's if requested."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.utils import divide
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


class BackendMissing(RuntimeError):
    """The requested attention or norm is not available."""


def attention_of(backend: str) -> Any:
    """The core attention for a layer specification.

    Args:
        backend: "torch" (the kernel that torch prefers), one of torch's kernels, or "transformer_engine".

    Raises:
        BackendMissing: Transformer Engine is not installed.
    """
    if backend == "transformer_engine":
        return _transformer_engine("attention").TEDotProductAttention
    return ModuleSpec(module=CausalAttention, params={"kernel": backend})


def norm_of(backend: str) -> Any:
    """The norm for a layer specification: ours ("torch") or Transformer Engine's.

    Raises:
        BackendMissing: Transformer Engine is not installed.
    """
    return _transformer_engine("norm").TENorm if backend == "transformer_engine" else RmsNorm


def _transformer_engine(what: str) -> Any:
    from megatron.core.extensions import transformer_engine as extension

    if not extension.HAVE_TE:
        raise BackendMissing(
            f"model.{what}: found transformer_engine, which cannot be imported; install it "
            f"(docs/transformer_engine.md) or set model.{what}=torch"
        )
    return extension


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
        kernel: str = "torch",
        **_: Any,
    ):
        super().__init__(config=config)
        self.kernel = kernel
        if attn_mask_type != AttnMaskType.causal or config.context_parallel_size != 1:
            raise ValueError("this attention supports only the causal mask, without context parallelism")
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
        q, k, v = (tensor.permute(1, 2, 0, 3) for tensor in (query, key, _alone(value, query)))
        out = attend(self.kernel, q, k, v, scale=self.scale)
        return out.permute(2, 0, 1, 3).reshape(query.size(0), query.size(1), -1)


def _alone(value: Tensor, query: Tensor) -> Tensor:
    """Copy value if it shares memory with the unrotated query and key, so that autograd does not keep them."""
    whole = value.untyped_storage()
    is_part = whole.nbytes() > value.numel() * value.element_size()
    is_shared = whole._cdata == query.untyped_storage()._cdata  # rotated in place: all of it is still in use
    return value.contiguous() if torch.is_grad_enabled() and is_part and not is_shared else value


def attend(kernel: str, query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """Causal attention by one of torch's kernels, or by the one that torch prefers.

    Args:
        query: (batch, heads, sequence, head size); key and value may have fewer heads.

    Raises:
        BackendMissing: this kernel does not work on this device.
    """
    shared = query.size(1) != key.size(1)
    with _chosen(kernel):
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=shared
        )


@contextlib.contextmanager
def _chosen(kernel: str) -> Iterator[None]:
    if kernel not in KERNELS:
        yield
        return
    try:
        with sdpa_kernel(KERNELS[kernel]):
            yield
    except RuntimeError as error:
        raise BackendMissing(
            f"model.attention: {kernel} does not work here ({error}); choose torch, "
            "which uses any kernel that works"
        ) from error


def described(layer: Any) -> dict[str, str]:
    """Names of a built layer's attention and norm, for the proof."""
    attention, norm = layer.self_attention.core_attention, layer.input_layernorm
    kernel = (
        f"torch {attention.kernel}".removesuffix(" torch") if isinstance(attention, CausalAttention) else None
    )
    return {
        "attention": kernel or "transformer engine",
        "norm": "torch" if isinstance(norm, RmsNorm) else "transformer engine",
    }


class RmsNorm(torch.nn.RMSNorm):
    """torch's RMSNorm, marked for Megatron's gradient all-reduce under sequence parallelism."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: Any):
        if config.normalization != "RMSNorm" or config.layernorm_zero_centered_gamma:
            raise ValueError("this norm is RMSNorm with a plain gain")
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
