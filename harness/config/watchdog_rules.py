"""What section watchdog may say beyond the sign of its numbers."""

from __future__ import annotations

from harness.contract.build import ConfigProblem
from harness.contract.config import Config

_LEAST_S = 5.0  # ranks tell one another of themselves every half second, and a machine may be busy


def _patience(config: Config) -> None:
    for name in ("init_s", "hang_s", "silence_s"):
        value = getattr(config.watchdog, name)
        if 0 < value < _LEAST_S:
            allowed = f"0 (endless), or at least {_LEAST_S:g} seconds"
            raise ConfigProblem(f"watchdog.{name}", f"{value:g}", allowed)


def _ratio(config: Config) -> None:
    ratio = config.watchdog.straggler_ratio
    if 0 < ratio <= 1:
        raise ConfigProblem(
            "watchdog.straggler_ratio", f"{ratio:g}", "0 (never), or a number > 1: 1.5 is half as slow again"
        )


RULES = (_patience, _ratio)
