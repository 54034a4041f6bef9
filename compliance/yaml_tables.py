"""Reads the YAML tables of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# PyYAML built with libyaml takes a tenth of the time
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path) -> Any:
    """Returns a table as plain values."""
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
