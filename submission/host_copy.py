"""Values and times of the accelerator on their way to the host: whoever reads them waits for them, nobody else."""

from __future__ import annotations

import time

import torch


class Moment:
    """A point in the accelerator's work, or in the host's where there is no accelerator."""

    def __init__(self, home: torch.device):
        self._host_s, self._event = time.perf_counter(), None
        if home.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()

    def seconds_since(self, earlier: Moment) -> float:
        """Seconds the accelerator took from `earlier` to here; waits for it to come here."""
        if self._event is None or earlier._event is None:
            return self._host_s - earlier._host_s
        self.wait()
        return float(earlier._event.elapsed_time(self._event)) / 1e3


class HostCopy:
    """Numbers that leave the accelerator without the host waiting.

    Args:
        values: (n,), any type.

    Attributes:
        is_late: the accelerator may not have computed them yet when the host goes on.
        left: the moment after they left.
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
