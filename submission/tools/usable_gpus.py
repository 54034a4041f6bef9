"""Prints as one JSON line how many GPUs torch can use here, and why none: `python -m submission.tools.usable_gpus`."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch

from harness.contract.node_answers import GpuAnswer
from submission import device


def main() -> None:
    why = device.why_no_gpu()
    devices = 0 if why else torch.cuda.device_count()
    print(json.dumps(asdict(GpuAnswer(devices=devices, why=why))))


if __name__ == "__main__":
    main()
