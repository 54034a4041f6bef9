"""The random numbers of a model outside Megatron: a stream for every layer and GEMM, and one count of steps."""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Tensor

from kernels.philox import Draw, Randomness

_CALL_BITS = 62  # bits in the number of a call; offsets from 2^63 on belong to signs


class SharedRandomness:
    """Source of the random numbers of all linears of a model.

    Each layer and each operand of its GEMMs has its own key, derived from seed, rank and names. Each forward pass takes
    a number from torch's CPU generator, as dropout does: torch.manual_seed repeats a run, and activation checkpointing,
    which restores that generator, recomputes with the same words. Signs depend on seed and step alone.

    Args:
        seed: of the run, equal on all ranks.
        rank: gives each rank its own words; all ranks have the same signs.
    """

    def __init__(self, seed: int = 0, rank: int = 0):
        self.rank, self._signs = rank, Randomness(seed)

    @property
    def seed(self) -> int:
        return self._signs.seed

    @property
    def steps(self) -> int:
        """Number of optimizer steps so far."""
        return self._signs.step

    def step(self, *_: object) -> None:
        """Count an optimizer step: signs that are drawn per step change.

        Call it after optimizer.step(), or once `optimizer.register_step_post_hook(randomness.step)`.
        """
        self._signs.step += 1

    def state(self) -> Tensor:
        """(2,) int64: seed and steps; the model's state_dict holds it."""
        signed = self.seed - (1 << 64) if self.seed >> 63 else self.seed
        return torch.tensor([signed, self.steps])

    def load_state(self, state: Tensor) -> None:
        """Continue from `state()`."""
        seed, steps = state.tolist()
        self._signs = Randomness(seed % (1 << 64))
        self._signs.step = steps

    def of_call(self, label: str, call: int) -> Randomness:
        """The random numbers of one forward pass of a layer and of its backward pass."""
        return _OfCall(self, label, call)


class _OfCall(Randomness):
    """The draws of one call: a stream gives the same words whenever the call is repeated."""

    def __init__(self, shared: SharedRandomness, label: str, call: int):
        super().__init__(shared.seed, shared.rank)
        self.step, self._shared, self._label, self._call = shared.steps, shared, label, call

    def draw(self, stream: str = "", device: torch.device | None = None) -> Draw:
        if not stream:
            raise ValueError("a draw from the randomness of a model needs the name of its GEMM and operand")
        return Draw(_key(self.seed, self._shared.rank, self._label, stream), self._call)

    def signs(self, size: int, *, per_step: bool, device: torch.device) -> Tensor:
        return self._shared._signs.signs(size, per_step=per_step, device=device)


def call_number() -> Tensor:
    """() int64 on the CPU from torch's generator."""
    return torch.randint(1 << _CALL_BITS, (), dtype=torch.int64)


@functools.cache
def _key(seed: int, rank: int, label: str, stream: str) -> int:
    text = f"{seed} {rank} {label} {stream}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
