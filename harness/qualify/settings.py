"""What is trained to try a machine: two layers of the model at its true width; on a CPU two layers of the proxy."""

from __future__ import annotations

from pathlib import Path

from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, PROXY_PROFILE
from harness.contract.config import Config

ARMS = ("mxfp4", "fp8", "bf16")  # the most telling first
LAYERS = 2
STEPS = 6  # timed
_AHEAD = 16  # steps that the configuration allows besides: profiled, listened to
_LONG = 2000  # of the training that is stopped by a signal


def trial(data: Path, *, on_gpu: bool, ranks: int, long: bool = False, accelerator: str = "") -> Config:
    """Data parallel over all ranks, two micro batches each: gradients accumulate and weights are kept in between.

    Args:
        data: holds train and valid as submission.corpus.byte_corpus writes them.
        long: thousands of steps in the place of a few.
        accelerator: its name in facts.yaml, where it is known.
    """
    steps = _LONG if long else STEPS + _AHEAD
    micro = 1 if on_gpu else 2
    overrides = {
        "system.division": "open",
        "system.accelerator": accelerator or "unknown",
        "model.layers": LAYERS,
        "data.directory": data,
        "data.train_prefix": "train",
        "data.valid_prefix": "valid",
        "batch.micro_batch_size": micro,
        "batch.global_batch_size": 2 * micro * ranks,
        "schedule.max_steps": steps,
        "schedule.warmup_steps": 4,
        "evaluation.interval_samples": 2 * micro * ranks * steps,
        "evaluation.sequences": micro * ranks,
        "evaluation.target_log_perplexity": 0.5,
        "parallelism.nodes": 1,
        "parallelism.gpus_per_node": ranks,
        "parallelism.tensor": 1,
        "parallelism.sequence_parallel": "false",
        "runs.arms": f"[{', '.join(ARMS)}]",
    }
    if on_gpu:
        overrides["parallelism.gradient_reduce"] = "bf16"  # as every preset
    words = [f"{key}={value}" for key, value in overrides.items()]
    return resolve(BENCHMARK_PROFILE if on_gpu else PROXY_PROFILE, overrides=words, aliases={}).config
