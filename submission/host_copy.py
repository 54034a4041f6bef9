"""Copies values and times from the accelerator to the host. Only the code that reads them waits for them."""

from __future__ import annotations

import time

import torch


class Moment:
    """A point in the accelerator's work, or in the host's work without an accelerator."""

    def __init__(self, home: torch.device):
        self._host_s, self._event = time.perf_counter(), None
        if home.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Moment) -> float:
        """Return the accelerator's seconds from `earlier` to this moment; waits until it reaches this moment."""
        if self._event is None or earlier._event is None:
            return self._host_s - earlier._host_s
        self.wait()
        return float(earlier._event.elapsed_time(self._event)) / 1e3


class HostCopy:
    """Numbers that are copied to the host while the host goes on.

    Args:
        values: (n,), any type.

    Attributes:
        is_late: the accelerator may not have computed them yet when the host goes on.
        left: the moment after the copy.
    """

    def __init__(self, values: torch.Tensor):
        self.is_late, self._host = values.is_cuda, values
        if values.is_cuda:
            self._host = torch.empty_like(values, device="cpu", pin_memory=True)
            self._host.copy_(values, non_blocking=True)
        self.left = Moment(values.device)

    def read(self) -> list[float]:
        self.left.wait()
        found: list[float] = self._host.tolist()
        return found
