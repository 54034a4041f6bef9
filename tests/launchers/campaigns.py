"""What a campaign of one run has come to, read from its LOGDIR as anybody may."""

from __future__ import annotations

import json
from pathlib import Path

from harness.campaign import store
from harness.campaign.campaign import Campaign


def training(logs: Path, *, after: int = 0) -> int:
    """The attempt of the only run that has trained its first steps, of those after this one; 0 where there is none."""
    for path in logs.glob("[0-9]*/run_0/attempt_*/status.json"):
        attempt = int(path.parent.name.removeprefix("attempt_"))
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # being replaced
            continue
        if attempt > after and status["state"] == "training" and status["samples"] > 0:
            return attempt
    return 0


def only_campaign(logs: Path) -> Campaign:
    (campaign,) = store.load_all(logs)
    return campaign


def how_it_ended(logs: Path, attempt: int) -> tuple[str, str]:
    """Key and status of the last record in an attempt's log: run_stop, when the log was closed."""
    (path,) = logs.glob(f"[0-9]*/run_0/attempt_{attempt}/result.txt")
    record = json.loads(path.read_text(encoding="utf-8").splitlines()[-1].removeprefix(":::MLLOG "))
    return record["key"], record["metadata"].get("status", "")
