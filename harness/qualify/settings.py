"""The model of the trial trainings: two layers at the model's true width; on a CPU two layers of the proxy."""

from __future__ import annotations

from pathlib import Path

from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, PROXY_PROFILE
from harness.contract.config import Config

ARMS = ("mxfp4", "fp8", "bf16")  # the most informative first
LAYERS = 2
STEPS = 6  # number of timed steps
_AHEAD = 16  # further steps that the configuration allows, for profiling and for counting waits
_LONG = 2000  # steps of the training that a signal stops


def trial(data: Path, *, on_gpu: bool, ranks: int, long: bool = False, accelerator: str = "") -> Config:
    """Configuration of a trial: data parallel over all ranks, with two micro batches, so that gradients accumulate.

    Quantised weights are kept between the two.

    Args:
        data: directory with train and valid, as submission.corpus.byte_corpus writes them.
        long: thousands of steps instead of a few.
        accelerator: its name in facts.yaml; empty if it is not listed.
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
        overrides["parallelism.gradient_reduce"] = "bf16"  # as in every preset
    words = [f"{key}={value}" for key, value in overrides.items()]
    return resolve(BENCHMARK_PROFILE if on_gpu else PROXY_PROFILE, overrides=words, aliases={}).config
