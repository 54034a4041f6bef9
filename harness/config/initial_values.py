"""The values that a new user sets once: the submitter's name, the system's name, and the preset of the system."""

from __future__ import annotations

from pathlib import Path

from harness.base.errors import ConfigError, UsageError
from harness.base.names import did_you_mean
from harness.config import yaml_edit
from harness.config.derived import SUBMITTER, SYSTEM
from harness.config.file import choices
from harness.contract.files import replace_text
from harness.machine import facts

_LONGEST = 64  # characters of a name


def checked_name(option: str, value: str) -> str:
    """A name as it can go into a log and into names of directories.

    Raises:
        UsageError: empty, too long, not printable, or the placeholder itself.
    """
    name = value.strip()
    if not name or len(name) > _LONGEST or not name.isprintable() or name in (SUBMITTER, SYSTEM):
        allowed = f"1 to {_LONGEST} printable characters, and not the placeholder of the shipped file"
        raise UsageError(f"{option}: found {value!r}; allowed: {allowed}")
    return name


def preset_for(accelerator: str, file: Path) -> str:
    """The smallest preset with this accelerator, or the preset of this name.

    Args:
        accelerator: `MI355X`, a driver's name such as `NVIDIA H200`, or a preset such as `mi355x_8x8`.

    Raises:
        UsageError: no preset has this accelerator.
    """
    presets = choices("presets", file)
    if accelerator in presets:
        return accelerator
    boards = {name: str(preset.get("system", {}).get("accelerator", "")) for name, preset in presets.items()}
    known = facts.accelerator(accelerator)
    wanted = (known.name if known else accelerator).casefold()
    if fitting := [name for name in presets if boards[name].casefold() == wanted]:
        return min(fitting, key=lambda name: presets[name].get("parallelism", {}).get("nodes", 1))
    allowed = f"{', '.join(dict.fromkeys(boards.values()))}, or a preset: {', '.join(presets)}"
    meant = did_you_mean(accelerator, [*boards.values(), *presets])
    raise UsageError(f"--accelerator: no preset for '{accelerator}'{meant}; allowed: {allowed}")


def write(file: Path, *, submitter: str, system: str, preset: str) -> None:
    """Write the three values into the file; its comments and other lines stay.

    Raises:
        ConfigError: the file cannot be read, or is not what it should be.
        OSError: it cannot be written.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}; the configuration cannot be read") from None
    values = {"preset": preset, "system.submitter": submitter, "system.name": system}
    replace_text(file, yaml_edit.edited(text, values, file.name))
