"""Llama 3.1 on plain PyTorch, written from the architecture's description and independent of Megatron."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.contract.config import Model


def rotary_angles(head: int, length: int, base: float, factor: float) -> Tensor:
    """Angles (length, head / 2) with Llama 3.1 scaling: low factor 1, high factor 4, old context 8192."""
    frequency = base ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    wavelength = 2 * math.pi / frequency
    smooth = ((8192 / wavelength - 1.0) / (4.0 - 1.0)).clamp(0, 1)
    scaled = frequency * (smooth + (1 - smooth) / factor)
    return torch.outer(torch.arange(length, dtype=torch.float64), scaled).float()


class Layer(nn.Module):
    def __init__(self, hidden: int, ffn: int, heads: int, groups: int):
        super().__init__()
        self.heads, self.groups, self.head = heads, groups, hidden // heads
        self.norm1, self.norm2 = nn.RMSNorm(hidden, 1e-5), nn.RMSNorm(hidden, 1e-5)
        self.q, self.o = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
        self.k, self.v = (nn.Linear(hidden, groups * self.head, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(hidden, ffn, bias=False) for _ in range(2))
        self.down = nn.Linear(ffn, hidden, bias=False)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        y = self.norm1(x)
        q, k, v = (
            linear(y).view(batch, length, -1, self.head).transpose(1, 2)
            for linear in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(
            rotate(q, angles), rotate(k, angles), v, is_causal=True, enable_gqa=True
        )
        x = x + self.o(attended.transpose(1, 2).reshape(batch, length, hidden))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class BareLlama(nn.Module):
    def __init__(self, shape: Model):
        super().__init__()
        hidden, head = shape.hidden_size, shape.hidden_size // shape.attention_heads
        sizes = (hidden, shape.ffn_hidden_size, shape.attention_heads, shape.query_groups)
        self.embedding = nn.Embedding(shape.vocab_size, hidden)
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(hidden, shape.norm_epsilon)
        self.head = nn.Linear(hidden, shape.vocab_size, bias=False)
        angles = rotary_angles(head, shape.sequence_length, shape.rope_base, shape.rope_scaling_factor)
        self.register_buffer("angles", angles, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.angles)
        return self.head(self.norm(x))

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> None:
        """Copy the weights of a Megatron GPTModel: fused QKV by query group, fused gate and up."""
        self.embedding.weight.copy_(weights["embedding.word_embeddings.weight"])
        self.head.weight.copy_(weights["output_layer.weight"])
        self.norm.weight.copy_(weights["decoder.final_layernorm.weight"])
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            part = {
                key.removeprefix(f"decoder.layers.{index}."): value
                for key, value in weights.items()
                if key.startswith(f"decoder.layers.{index}.")
            }
            _load_layer(layer, part)


def _load_layer(layer: Layer, part: dict[str, Tensor]) -> None:
    fused = part["self_attention.linear_qkv.weight"]
    hidden, per_group = fused.size(1), layer.heads // layer.groups
    grouped = fused.view(layer.groups, per_group + 2, layer.head, hidden)
    layer.q.weight.copy_(grouped[:, :per_group].reshape(-1, hidden))
    layer.k.weight.copy_(grouped[:, per_group].reshape(-1, hidden))
    layer.v.weight.copy_(grouped[:, per_group + 1].reshape(-1, hidden))
    layer.o.weight.copy_(part["self_attention.linear_proj.weight"])
    gate, up = part["mlp.linear_fc1.weight"].chunk(2)
    layer.gate.weight.copy_(gate)
    layer.up.weight.copy_(up)
    layer.down.weight.copy_(part["mlp.linear_fc2.weight"])
    layer.norm1.weight.copy_(part["input_layernorm.weight"])
    layer.norm2.weight.copy_(part["pre_mlp_layernorm.weight"])
