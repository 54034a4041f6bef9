"""What every step of a qualification works with: the machine, the clock and the directory."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.base.paths import ROOT
from harness.base.text import printable
from harness.contract import environment, typed_json
from harness.contract.typed_json import RowError
from harness.machine import facts
from harness.machine.accelerators import Gpu
from harness.qualify import children
from harness.qualify.children import Child, Ended

ATTEMPTS, PROCESSES = "attempts", "processes"  # directories for the files of the steps
_LONGEST = 400  # characters
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a step works with.

    Args:
        gpus: number of GPUs that torch can use; 0: the step runs at toy scale on the CPU.
        ranks: number of ranks of a training; one per GPU.
        inventory: the report of the vendor's tool on every GPU.
        home: directory of this qualification.
        until: time by which this step must have ended, on time.monotonic's clock.
        stopped: whether the command was told to stop.
    """

    gpus: int
    ranks: int
    inventory: Sequence[Gpu]
    home: Path
    until: float
    stopped: Callable[[], bool]

    @property
    def on_gpu(self) -> bool:
        return self.gpus > 0

    @property
    def accelerator(self) -> str:
        """The name in facts.yaml; empty where it does not list the GPU."""
        known = facts.accelerator(self.inventory[0]["name"]) if self.inventory else None
        return known.name if known else ""

    @property
    def data(self) -> Path:
        return self.home / "corpus"

    @property
    def cut_off(self) -> bool:
        """Whether this step has no time left."""
        return self.stopped() or time.monotonic() > self.until

    def place(self, path: Path) -> str:
        """Path of a file of this qualification, relative to its directory."""
        return path.relative_to(self.home).as_posix()

    def shown(self, text: str) -> str:
        """Output of a program for the page, which others will read: one line without this machine's directories."""
        for directory, name in ((self.home, "OUT"), (ROOT, "."), (Path.home(), "~")):
            if directory != Path("/"):
                text = text.replace(str(directory), name)
        return printable(text, _LONGEST)

    def training_environment(self) -> dict[str, str]:
        threads = max(1, environment.cores() // self.ranks)
        return environment.training_environment(threads=threads, on_cpu=not self.on_gpu)

    def kernels_environment(self, worker: int = 0) -> dict[str, str]:
        """Environment of a tool of the kernels; the workers share the GPUs."""
        found = environment.kernels_environment("verify", on_cpu=not self.on_gpu)
        if self.on_gpu:
            found |= {
                key: value
                for key, value in environment.worker_environment(worker, self.gpus).items()
                if key == "CUDA_VISIBLE_DEVICES"
            }
        return found

    def run(
        self,
        step: str,
        *asked: Child,
        watch: Callable[[Mapping[str, int]], bool] = lambda pids: False,
    ) -> list[Ended]:
        """Run processes until they end, or until this step's time is up."""
        home = self.home / PROCESSES / step
        return children.run(asked, home, until=self.until, stopped=self.stopped, watch=watch)


def module(name: str, *options: object) -> list[str]:
    """The command line of a module of ours."""
    return [sys.executable, "-m", name, *map(str, options)]


def torchrun(ranks: int, name: str, *options: object) -> list[str]:
    """The same on this number of ranks."""
    launcher = module("torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "--max-restarts", 0)
    return [*launcher, "-m", name, *map(str, options)]


def rows(kind: type[T], ended: Sequence[Ended]) -> Iterator[T]:
    """The JSON lines of processes; other lines are skipped."""
    for one in ended:
        for line in one.lines():
            if line.startswith("{"):
                try:
                    yield typed_json.from_plain(kind, json.loads(line))
                except (ValueError, RowError):
                    continue


def document(text: str) -> Mapping[str, Any]:
    """A whole JSON document. Other programs may have printed text before its first brace.

    Raises:
        ValueError: there is no JSON document.
    """
    found: Mapping[str, Any] = json.loads(text[text.index("{") :])
    return found
