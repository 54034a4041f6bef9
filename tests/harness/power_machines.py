"""Machines whose power can be asked: vendors' tools as shell scripts, and the files of drivers below a root."""

from __future__ import annotations

from pathlib import Path

from tests.harness.doctor_machines import tools

SYSTEM = "/usr/bin:/bin"


def nvidia(readings: str, *, module: bool = False, then: str = "sleep 0.05") -> str:
    """Body of an nvidia-smi: one answer, or with --loop-ms one after another, `then` after each."""
    refuses = "" if module else "case \"$*\" in *module*) echo 'not a valid field to query'; exit 2 ;; esac\n"
    answer = f"printf '%s\\n' '{readings}'"
    return f'{refuses}case "$*" in *--loop-ms=*) while :; do {answer}; {then}; done ;; *) {answer} ;; esac'


def path_with(directory: Path, **programs: str) -> str:
    """A PATH on which these programs come first."""
    return f"{tools(directory, **programs)}:{SYSTEM}"


def amdgpu(root: Path, *cards: int, meter: str = "power1_average") -> Path:
    """A driver with a card for each reading, in microwatts."""
    for number, micro_watts in enumerate(cards):
        place = root / f"sys/class/drm/card{number}/device/hwmon/hwmon{number}"
        place.mkdir(parents=True)
        (place / "name").write_text("amdgpu\n")
        (place / meter).write_text(f"{micro_watts}\n")
    return root


def rapl(root: Path, **zones: tuple[str, int]) -> Path:
    """Counters in microjoules: place after `intel-rapl:` (`_` for `:`) -> name and value; they begin again at 1 kJ."""
    for place, (name, micro_joules) in zones.items():
        zone = root / f"sys/class/powercap/intel-rapl:{place.removeprefix('zone_').replace('_', ':')}"
        zone.mkdir(parents=True)
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text("1000000000\n")
        (zone / "energy_uj").write_text(f"{micro_joules}\n")
    return root
