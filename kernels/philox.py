"""Counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011), the same on every device.

Element i of a tensor in row-major order takes word i % 4 of the block with counter (i // 4, offset) and key `seed`;
each of these numbers is two 32-bit words, low word first. So every element has its own random number, in whatever
order a kernel visits the elements.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from kernels import hadamard

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF
_SIGNS_OF_A_BLOCK = 128
_SIGNS_OFFSET = 1 << 63  # draws have offsets from 0 up, so none equals the offset of a sign vector


@dataclass(frozen=True)
class Draw:
    """The random numbers of one tensor: every (seed, offset) gives different ones."""

    seed: int  # 64 bits
    offset: int  # 64 bits
    # () int64 on the GPU: the offset is this number plus `place`, which is the same in every pass. A kernel that takes
    # these two has the same arguments in every pass, as a replayed CUDA graph needs.
    start: Tensor | None = field(default=None, compare=False)
    place: int = 0


class Randomness:
    """Source of one rank's random numbers. Every draw is used once. Signs depend only on seed and step.

    What changes from pass to pass lies in memory of the device, at the same addresses, where `begin_pass` writes it.

    Args:
        seed: the run's seed, equal on all ranks.
        rank: ranks differ in their draws, not in their signs.
    """

    def __init__(self, seed: int, rank: int = 0):
        self.seed, self.step = seed, 0
        self._key, self._used = (seed ^ (rank + 1) * 0x9E3779B97F4A7C15) % (1 << 64), 0
        self._began = 0  # draws before this pass
        self._starts: dict[torch.device, Tensor] = {}  # the same number, on the devices that draw
        self._signs: dict[tuple[int, bool, torch.device], tuple[int, Tensor]] = {}  # offset, signs

    def draw(self, stream: str = "", device: torch.device | None = None) -> Draw:
        """The next draw of this rank; kernels/randomness.py has a source that gives each stream its own words.

        Args:
            device: that will use it.
        """
        self._used += 1
        offset = self._used - 1
        if device is None or not _replays(device):
            return Draw(self._key, offset)
        if device not in self._starts:
            self._starts[device] = torch.full((), self._began, dtype=torch.int64, device=device)
        return Draw(self._key, offset, self._starts[device], offset - self._began)

    def begin_pass(self) -> None:
        """Write what changes from pass to pass into its place; call before passes, and outside a CUDA graph."""
        self._began = self._used
        for start in self._starts.values():
            start.fill_(self._began)
        for key, (drawn_at, signs) in self._signs.items():
            size, per_step, device = key
            offset = self._signs_offset(per_step)
            if offset != drawn_at:
                signs.copy_(_signs(size, offset, self.seed, device))
                hadamard.refresh(signs)
                self._signs[key] = offset, signs

    def skip(self, count: int) -> None:
        """Count draws of a replayed graph, which runs no Python, so that the next pass begins after them."""
        self._used += count

    def go_on(self, *, step: int, used: int) -> None:
        """Continue after `step` optimizer steps and `used` draws."""
        self.step, self._used = step, used
        self.begin_pass()

    def _signs_offset(self, per_step: bool) -> int:
        return _SIGNS_OFFSET + (self.step if per_step else 0)

    def signs(self, size: int, *, per_step: bool, device: torch.device) -> Tensor:
        """(size,) FP32 of +1 and -1, from the bits of blocks of 128; cached: do not modify it."""
        offset, key = self._signs_offset(per_step), (size, per_step, device)
        if key not in self._signs or self._signs[key][0] != offset:
            self._signs[key] = offset, _signs(size, offset, self.seed, device)
        return self._signs[key][1]


def _replays(device: torch.device) -> bool:
    """Whether launches on a device can be captured and replayed."""
    return device.type == "cuda"


def _signs(size: int, offset: int, seed: int, device: torch.device) -> Tensor:
    """Draw signs on the device that uses them, because a copy from the host would wait for the device."""
    counters = torch.arange(-(-size // _SIGNS_OF_A_BLOCK), device=device)
    words = philox(counters, offset, seed).flatten()
    bits = (words[:, None] >> torch.arange(32, device=device)) & 1  # the first bit is the lowest
    return 1.0 - 2.0 * bits.flatten()[:size].float()


def words(shape: torch.Size, draw: Draw, device: torch.device) -> Tensor:
    """Independent uniform 32-bit words in int64, one per element of `shape`."""
    count = shape.numel()
    groups = torch.arange((count + 3) // 4, device=device)
    offset = draw.offset if draw.start is None else draw.start + draw.place
    return philox(groups, offset, draw.seed).flatten()[:count].view(shape)


def shared_words(shape: torch.Size, draw: Draw, device: torch.device) -> Tensor:
    """Words with eight random bits each: four elements of (M, K) share a word, byte by byte from the lowest.

    Element e of group g takes byte e of word g as b; the word is b 2^24 + 2^23, the fraction (b + 1/2) / 256. So the
    hardware's instructions are specified: they round up with a probability within 2^-9 of the remainder. Which bits of
    a word decide which element is the chip's affair, so its codes equal these in distribution alone.
    """
    words_MG = words(torch.Size((shape[0], shape[1] // 4)), draw, device)
    bytes = (words_MG.unsqueeze(-1) >> torch.arange(0, 32, 8, device=device)) & 255
    return ((bytes << 24) | (1 << 23)).flatten(1)


def philox(counters: Tensor, offset: int | Tensor, seed: int) -> Tensor:
    """(n,) int64 counters -> (n, 4) 32-bit words in int64."""
    low, high = offset & _WORD, (offset >> 32) & _WORD
    state = [counters & _WORD, (counters >> 32) & _WORD, counters * 0 + low, counters * 0 + high]
    key = [seed & _WORD, (seed >> 32) & _WORD]
    for _ in range(10):
        high0, low0 = _multiply(state[0], _MULTIPLIERS[0])
        high1, low1 = _multiply(state[2], _MULTIPLIERS[1])
        state = [high1 ^ state[1] ^ key[0], low1, high0 ^ state[3] ^ key[1], low0]
        key = [(k + step) & _WORD for k, step in zip(key, _KEY_STEPS, strict=True)]
    return torch.stack(state, -1)


def _multiply(x: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product; computed in halves, because 64 unsigned bits overflow int64."""
    low = (x & 0xFFFF) * by
    middle = (x >> 16) * by + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)
