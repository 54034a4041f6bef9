"""Times one rank's forward passes and keeps their losses, before collectives combine them with other ranks'."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


class ForwardPasses:
    """Times and losses of one rank's forward passes; read at evaluations and after a loss that is not finite.

    Attributes:
        begins: called when a forward pass begins.
        losses: one (2,) tensor per pass of the last step or evaluation: sum of token losses, number of tokens;
            empty unless this is the last pipeline stage.
    """

    def __init__(self) -> None:
        self.begins: Callable[[], None] = lambda: None
        self.losses: list[torch.Tensor] = []
        self._seconds, self._passes = 0.0, 0
        self._events: list[tuple[Any, Any]] = []
        self._is_timed = True

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Context that times a pass, including the wait for its data, with GPU events: the host does not wait."""
        self.begins()
        if not self._is_timed:
            yield
            return
        self._passes += 1
        if torch.cuda.is_available():
            ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            ends[0].record()
            yield
            ends[1].record()
            self._events.append((ends[0], ends[1]))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    @contextlib.contextmanager
    def untimed(self) -> Iterator[None]:
        """Context of passes that a CUDA graph captures: their events would mean the capture and never a replay."""
        self._is_timed = False
        try:
            yield
        finally:
            self._is_timed = True

    def pass_s(self) -> float:
        """Mean seconds of the passes since the last call; 0 without any. The accelerator must have finished them."""
        seconds = self._seconds + sum(begin.elapsed_time(end) for begin, end in self._events) / 1e3
        mean = seconds / self._passes if self._passes else 0.0
        self._seconds, self._passes, self._events = 0.0, 0, []
        return mean
