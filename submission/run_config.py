"""What the harness hands to the training processes: config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.contract.build import build
from harness.contract.config import Config


def read(path: Path) -> tuple[Config, dict[str, Any]]:
    """The resolved configuration, and the keys of this run: arm, index, seed."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return build(Config, document["config"], ""), document["run"]
