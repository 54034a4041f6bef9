"""Records the power of this node during a training: finds the sensors and starts the process that reads them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.ask_program import ask_program
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import file_names
from harness.contract.config import Config
from harness.machine.power.sources import Hwmon, Lines, Rapl, Row, Tool, amd, nvidia

_PATIENCE_S = 15.0  # nvidia-smi is slow on a node without persistence mode
_CLOSING_S = 3.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensors:
    """The sensors that can be read on this machine, and why the others cannot."""

    names: tuple[str, ...]
    values: int = 0  # number of readings per sample
    why: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Meter:
    """Samples power during a training; without sensors it does nothing."""

    sources: tuple[str, ...]
    every_s: float
    root: Path = Path("/")

    @contextlib.contextmanager
    def running(self, directory: Path) -> Iterator[None]:
        """Write `directory`/power.jsonl inside the context. A failure of the sampling never stops the training."""
        process = self._start(directory) if self.sources else None
        try:
            yield
        finally:
            if process is not None:
                _end(process)

    def _start(self, directory: Path) -> subprocess.Popen[bytes] | None:
        command = [
            sys.executable,
            "-m",
            "harness.machine.power.sampler",
            "--out",
            str(directory / file_names.POWER),
        ]
        command += ["--every", str(self.every_s), "--root", str(self.root)]
        command += [word for name in self.sources for word in ("--source", name)]
        try:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,  # closes when this process ends in any way; then the sampler ends
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # so that Ctrl-C reaches only this process
            )
        except OSError:
            return None


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    for _ in range(2):
        try:
            process.wait(_CLOSING_S)
            return
        except (
            subprocess.TimeoutExpired
        ):  # the driver hangs; a process that is stuck in the kernel is left alone
            process.kill()


def prepare(config: Config, *, root: Path = Path("/")) -> Meter:
    """The meter that a configuration asks for. One line on stderr says which sensors it found."""
    every_s = config.power.sample_s
    if not every_s:
        return Meter(sources=(), every_s=0.0)
    found = sensors(root)
    if found.names:
        asked = f"{', '.join(found.names)}, {found.values} values every {every_s:g} s"
        text = f"power: {asked}; informative, not an MLPerf Power result"
    else:
        text = f"power: no sensor was found; the run continues without ({'; '.join(found.why)})"
    tell(printable(text, 400))
    return Meter(sources=found.names, every_s=every_s, root=root)


def sensors(root: Path = Path("/")) -> Sensors:
    """Read every sensor once: accelerators by the vendor's tool or driver, processors by RAPL."""
    found = (_of_nvidia(), _of_amd(root), _of_processors(root))
    return Sensors(
        names=tuple(name for one in found for name in one.names),
        values=sum(one.values for one in found),
        why=tuple(text for one in found for text in one.why),
    )


def _of_nvidia() -> Sensors:
    why = ""
    for module in (
        True,
        False,
    ):  # an older driver that does not know the module's field refuses the whole query
        tool = nvidia(module=module)
        said, why = _samples(tool)
        readings = [row for row in said if any(value is not None for value in row[2])]
        if len(readings) == len(tool.powers):
            return Sensors(names=(tool.name,), values=sum(len(row[2]) for row in readings))
    return Sensors(names=(), why=(why or "nvidia-smi: reports no power",))


def _of_amd(root: Path) -> Sensors:
    driver = Hwmon(root)
    if driver.paths:
        return Sensors(names=(driver.name,), values=len(driver.paths))
    said, why = _samples(amd())
    if any(value is not None for row in said for value in row[2]):
        return Sensors(names=("amd-smi",), values=len(said[0][2]))
    return Sensors(names=(), why=(why or "amd-smi: reports no power",))


def _of_processors(root: Path) -> Sensors:
    rapl = Rapl(root)
    if rapl.readable:
        return Sensors(names=(rapl.name,), values=len(rapl.paths))
    fix = (
        f"readable by root only: chmod a+r {rapl.paths[0]} and the other energy_uj files"
        if rapl.paths
        else "none in /sys/class/powercap"
    )
    return Sensors(names=(), why=(f"RAPL: {fix}",))


def _samples(tool: Tool) -> tuple[Sequence[Row], str]:
    """One sample of a tool, or why there is none."""
    answer = ask_program(tool.command(0.0), timeout_s=_PATIENCE_S)
    lines = Lines(tool=tool)
    for line in answer.out.splitlines() if not answer.why else []:
        lines.take(line, 0.0)
    return lines.rest(), answer.why
