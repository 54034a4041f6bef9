"""Compares step times in one process: a profile's arms with each other, and Megatron with bare PyTorch.

`python -m submission.tools.step_bench --config FILE [--json]`; `./run.sh bench` writes the file and starts it. Times
are medians over interleaved repetitions, so that a busy machine slows every candidate alike. Ratios are more reliable
than times.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from harness.contract import attempt_rows
from harness.contract.config import Config, Model
from harness.contract.environment import Ranks
from submission import device

# The size at which Megatron and bare PyTorch were compared before: 4.87 M parameters, sequence length 256.
_FIVE_MILLION = Model(
    layers=4,
    hidden_size=256,
    ffn_hidden_size=688,
    attention_heads=8,
    query_groups=2,
    vocab_size=4096,
    sequence_length=256,
    dtype="fp32",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="submission.tools.step_bench")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = attempt_rows.read_config(arguments.config).config
    device.install()
    from submission import parallel

    home = parallel.initialize(config, Ranks.from_environment())
    parallel.seed_everything(0)
    arms = _interleaved(
        {arm: _arm_step(config, arm, home) for arm in ("bf16", "fp8", "mxfp4")}, arguments.repetitions
    )
    frameworks = _interleaved(
        {"megatron": _megatron_step(config, home), "bare": _bare_step(config, home)}, arguments.repetitions
    )
    parallel.shut_down()
    report = {
        "machine": _machine(home),
        "repetitions": arguments.repetitions,
        "profile": config.profile,
        "arms": {
            name: {"step_s": value, "ratio_to_bf16": value / arms["bf16"]} for name, value in arms.items()
        },
        "megatron": {
            **{f"{k}_step_s": v for k, v in frameworks.items()},
            "parameters": _FIVE_MILLION.parameters,
        },
    }
    report["megatron"]["ratio_to_bare"] = frameworks["megatron"] / frameworks["bare"]
    print(json.dumps(report, indent=1) if arguments.json else _text(report))


def _arm_step(config: Config, arm: str, home: torch.device) -> Callable[[], Any]:
    from submission import batches
    from submission.assemble import assemble, linears_of
    from submission.step import train_step

    trainer = assemble(config, linears_of(config, arm, seed=0, rank=0), home)
    synthetic: Iterator[batches.Batch] = batches.synthetic_batches(config, home=home)
    return lambda: train_step(trainer, synthetic).loss  # reading it waits for the step's end


def _megatron_step(config: Config, home: torch.device) -> Callable[[], Any]:
    return _arm_step(dataclasses.replace(config, model=_FIVE_MILLION), "bf16", home)


def _bare_step(config: Config, home: torch.device) -> Callable[[], Any]:
    """The same model, batch and optimizer without Megatron."""
    from submission.tools.bare import BareLlama

    shape, batch = _FIVE_MILLION, config.batch.global_batch_size
    model = BareLlama(shape).to(home)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    tokens = torch.randint(shape.vocab_size, (batch, shape.sequence_length + 1), device=home)

    def step() -> float:
        adamw.zero_grad()
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        return loss.item()

    return step


def _interleaved(candidates: dict[str, Callable[[], Any]], repetitions: int) -> dict[str, float]:
    """Median seconds of each candidate, after two untimed rounds."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(repetitions + 2):
        for name, step in candidates.items():
            began = time.perf_counter()
            step()
            if repetition >= 2:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def _machine(home: torch.device) -> str:
    if home.type == "cuda":
        return f"{torch.cuda.get_device_name(home)}, torch {torch.__version__}"
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} of {os.cpu_count()} cores, torch {torch.__version__}"


def _text(report: dict[str, Any]) -> str:
    lines = [f"{report['machine']}; median of {report['repetitions']} interleaved steps"]
    for name, row in report["arms"].items():
        lines.append(
            f"{report['profile']} {name:<6} {row['step_s'] * 1e3:8.1f} ms  {row['ratio_to_bf16']:.2f}x bf16"
        )
    row = report["megatron"]
    size = f"{row['parameters'] / 1e6:.2f} M parameters, sequence {_FIVE_MILLION.sequence_length}, FP32"
    lines.append(
        f"{size}: Megatron {row['megatron_step_s'] * 1e3:.1f} ms, bare PyTorch {row['bare_step_s'] * 1e3:.1f} ms, "
        f"{row['ratio_to_bare']:.2f}x"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
