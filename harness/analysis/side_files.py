"""Reads the files and directories around logs: campaign.json, the system description, the round.

These files may be missing or damaged; only the logs are required.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compliance import ruleset, runlog
from compliance.benchmark import PROXY
from compliance.runlog import RunLog
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import Proof
from harness.records import attempt

Json = Mapping[str, Any]


def campaign(directory: Path) -> Json:
    """Read campaign.json beside the logs; empty if there is none."""
    return _object(directory / file_names.CAMPAIGN)


def package_place(directory: Path) -> Path | None:
    """Return <org>/results/<system>, a parent directory of the logs of a package."""
    above = directory.resolve()
    return next((folder for folder in (above, above.parent) if folder.parent.name == "results"), None)


def system(place: Path | None) -> Json:
    """Read the system description of a package's <org>/results/<system>; empty if there is none."""
    return _object(place.parents[1] / "systems" / f"{place.name}.json") if place else {}


def proofs(directory: Path, runs: Sequence[RunLog]) -> tuple[Proof, ...]:
    """Read the proof of the last attempt at each of these runs, because result_<i>.txt is a copy of its log."""
    found = []
    for run in runs:
        attempts = attempt.directories(file_names.run_of(directory / Path(run.path).name))
        found += [attempt_rows.read_proof(path) for path in attempts[-1:]]
    return tuple(proof for proof in found if proof is not None)


def _object(path: Path) -> Json:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def accelerators(system: Json, campaign: Json, run: RunLog) -> int | None:
    """Return the number of accelerators from the system description, the campaign's layout, or the log's layout."""
    try:
        return int(system["accelerators_per_node"]) * int(system["number_of_nodes"])
    except (KeyError, TypeError, ValueError):
        pass
    config = _mapping(campaign.get("config"))
    parallelism = _mapping(config.get("parallelism"))
    counts = [parallelism.get(key) for key in ("nodes", "gpus_per_node")]
    if config.get("benchmark") == PROXY.name:
        return None
    if all(type(one) is int for one in counts):
        product: int = math.prod(count for count in counts if count is not None)
        return product
    return _disclosed_accelerators(run)


def _disclosed_accelerators(run: RunLog) -> int | None:
    """Multiply data parallelism (GBS / micro batch / accumulation), tensor, pipeline and context parallelism."""
    names = ("tensor_parallelism", "pipeline_parallelism", "context_parallelism")
    layout = [_integer_point(run, name) for name in names]
    micro, steps = (_integer_point(run, key) for key in ("micro_batch_size", "gradient_accumulation_steps"))
    if not micro or not steps or not run.global_batch_size or not all(layout):
        return None
    return run.global_batch_size // (micro * steps) * math.prod(one for one in layout if one) or None


def _integer_point(run: RunLog, key: str) -> int | None:
    event = run.points.get(key)
    return runlog.integer(event.value) if event else None


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def stated_round(directory: Path) -> str | None:
    """Return the round, such as v5.1, if a parent directory states it."""
    found = ruleset.stated_round(directory)
    return f"v{found}" if found else None


def is_reconstructed(directory: Path) -> bool:
    """Whether a parent directory states that the logs are rebuilt from published key events."""
    return any(part.endswith("-reconstructed") for part in directory.resolve().parts)
