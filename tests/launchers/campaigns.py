"""What a campaign of one run has come to, read from its LOGDIR as anybody may."""

from __future__ import annotations

import json
from pathlib import Path

from harness.campaign import store
from harness.campaign.campaign import Campaign


def training(logs: Path, attempt: str = "1") -> bool:
    """Whether an attempt of the only run, of those that the pattern means, has trained its first steps."""
    for path in logs.glob(f"[0-9]*/run_0/attempt_{attempt}/status.json"):
        try:
            status = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # being replaced
            continue
        if status["state"] == "training" and status["samples"] > 0:
            return True
    return False


def only_campaign(logs: Path) -> Campaign:
    (campaign,) = store.load_all(logs)
    return campaign


def last_record(logs: Path, attempt: int) -> dict:
    (path,) = logs.glob(f"[0-9]*/run_0/attempt_{attempt}/result.txt")
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1].removeprefix(":::MLLOG "))
