"""The sources of power readings. Each has a name, a command or files to read, and a parser.

A tool is one process that writes during the whole run; files are read directly. No process is started per
sample, because a vendor's tool takes up to a second of a core to start.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HIGHEST_W = 1e5  # of one device; a larger value is not a reading
_NUMBER = re.compile(r"(\d+(?:\.\d+)?)(?: ?W)?")
_RAPL = re.compile(r"intel-rapl:\d+(?::\d+)?")  # AMD's processors are read through the same driver

Watts = tuple[float | None, ...]  # one per device; None where the device reported nothing
Row = tuple[float, str, Watts]  # seconds since the epoch, source, readings


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A vendor's program that writes a line of comma-separated values for each device and sample.

    Args:
        command: builds its command line from the seconds between samples.
        columns: names of the columns; empty where the program writes a heading.
        device: name of the column with the device's number.
        powers: column with watts -> name of the source.
    """

    name: str
    command: Callable[[float], list[str]]
    columns: tuple[str, ...]
    device: str
    powers: Mapping[str, str]


def nvidia(*, module: bool) -> Tool:
    """nvidia-smi: power.draw of the board (from Ampere on a mean over a second), or power of the whole module too."""
    powers = {"power.draw": "nvidia-smi"}
    powers |= {"module.power.draw.average": "nvidia-smi module"} if module else {}
    columns = ("index", *powers)

    def command(every_s: float) -> list[str]:
        query = f"--query-gpu={','.join(columns)}"
        loop = [f"--loop-ms={round(1000 * every_s)}"] if every_s else []
        return ["nvidia-smi", query, "--format=csv,noheader,nounits", *loop]

    name = "nvidia-smi module" if module else "nvidia-smi"
    return Tool(name=name, command=command, columns=columns, device="index", powers=powers)


def amd() -> Tool:
    """amd-smi: takes whole seconds only."""

    def command(every_s: float) -> list[str]:
        loop = ["--watch", str(max(1, round(every_s)))] if every_s else []
        return ["amd-smi", "metric", "--power", "--csv", *loop]

    powers = {"socket_power": "amd-smi"}
    return Tool(name="amd-smi", command=command, columns=(), device="gpu", powers=powers)


def tool(name: str) -> Tool | None:
    """The tool that a source belongs to."""
    tools = (nvidia(module=False), nvidia(module=True), amd())
    return next((one for one in tools if one.name == name), None)


@dataclass(kw_only=True)
class Lines:
    """Turns a tool's lines into samples. A sample is complete when a device reports again."""

    tool: Tool
    _columns: tuple[str, ...] = ()
    _began: float = 0.0
    _said: dict[int, list[str]] = field(default_factory=dict)

    def take(self, line: str, now: float) -> list[Row]:
        """The samples that this line completes; a line without a reading is skipped."""
        cells = tuple(cell.strip() for cell in line.split(","))
        if self.tool.device in cells:
            self._columns = cells
            return []
        columns = self._columns or self.tool.columns
        if len(cells) != len(columns):
            return []
        place = cells[columns.index(self.tool.device)]
        if not re.fullmatch(r"\d{1,4}", place):
            return []
        done = self.rest() if int(place) in self._said else []
        if not self._said:
            self._began = now
        self._said[int(place)] = list(cells)
        return done

    def rest(self) -> list[Row]:
        """The incomplete last sample."""
        columns, said = self._columns or self.tool.columns, self._said
        self._said = {}
        rows = []
        for column, source in self.tool.powers.items():
            if said and column in columns:
                at = columns.index(column)
                rows.append((self._began, source, tuple(watts(said[one][at]) for one in sorted(said))))
        return rows


def watts(text: str) -> float | None:
    """A reading in watts; None for `[N/A]`, an error text, or a number that no device can draw."""
    found = _NUMBER.fullmatch(text.strip())
    return _plausible(float(found[1])) if found else None


def _plausible(value: float) -> float | None:
    return value if 0 <= value <= _HIGHEST_W else None


class Hwmon:
    """The amdgpu driver's power meter of each card, in microwatts; rocm-smi and amd-smi read the same files."""

    name = "amdgpu"

    def __init__(self, root: Path):
        cards = sorted(root.glob("sys/class/drm/card*/device/hwmon/hwmon*"), key=_card)
        found = [
            next(filter(Path.exists, map(card.joinpath, _METERS)), None) for card in cards if _of_amd(card)
        ]
        self.paths = [path for path in found if path is not None]

    def sample(self, now: float) -> Row | None:
        values = [
            None if (micro := _integer(path)) is None else _plausible(micro / 1e6) for path in self.paths
        ]
        return now, self.name, tuple(values)


_METERS = ("power1_average", "power1_input")  # the mean over the card's own window, or the last value


def _card(path: Path) -> tuple[int, str]:
    found = re.search(r"/card(\d+)/", str(path))
    return (int(found[1]) if found else 0), path.name


def _of_amd(hwmon: Path) -> bool:
    try:
        return (hwmon / "name").read_text(encoding="ascii", errors="replace").strip() == "amdgpu"
    except OSError:
        return False


class Rapl:
    """Energy counters of the processors and their memory. `psys` is left out because it contains both."""

    name = "RAPL"

    def __init__(self, root: Path):
        zones = (path for path in root.glob("sys/class/powercap/intel-rapl:*") if _RAPL.fullmatch(path.name))
        self.paths = sorted(path / "energy_uj" for path in zones if _counts(path))
        self._ranges = [_integer(path.with_name("max_energy_range_uj")) or 0 for path in self.paths]
        self._last: list[tuple[float, int | None]] = []

    @property
    def readable(self) -> bool:
        """Whether the counters can be read.

        Many kernels allow it to root only, because they leak secrets (CVE-2020-8694).
        """
        return bool(self.paths) and all(_integer(path) is not None for path in self.paths)

    def sample(self, now: float) -> Row | None:
        """Mean power since the last call; None at the first call."""
        last, self._last = self._last, [(now, _integer(path)) for path in self.paths]
        if not last:
            return None
        rows = zip(last, self._last, self._ranges, strict=True)
        return now, self.name, tuple(_power(before, after, limit) for before, after, limit in rows)


def _counts(zone: Path) -> bool:
    try:
        name = (zone / "name").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return False
    return name.startswith("package") or name == "dram"


def _power(before: tuple[float, int | None], after: tuple[float, int | None], limit: int) -> float | None:
    """Watts between two readings of a counter in microjoules, which wraps around at its limit."""
    (since, first), (now, last) = before, after
    if first is None or last is None or now <= since:
        return None
    used = last - first if last >= first else last - first + limit
    return _plausible(used / 1e6 / (now - since))


def _integer(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError):
        return None
