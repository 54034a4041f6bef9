"""A benchmark that is not scaled trains on GPUs alone, and says why torch can use none."""

from __future__ import annotations

import pytest
import torch

from harness.config.file import resolve
from harness.contract.environment import Ranks
from submission import device

OLD_DRIVER = """The NVIDIA driver on your system is too old (found version 11040).
Please update your GPU driver by downloading and installing a new version"""


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_benchmark_is_not_built_on_a_cpu(no_gpu, tmp_path):
    device.install()
    from submission.executor import MegatronExecutor

    config = resolve("llama31_8b", overrides=["parallelism.gpus_per_node=1"]).config
    with pytest.raises(device.NoGpu, match=r"llama31_8b trains on GPUs, and torch can use none: torch 2\."):
        MegatronExecutor(config, arm="bf16", seed=1, ranks=Ranks.from_environment(), cache=tmp_path)


def test_a_torch_for_cpus_says_so(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    assert device.why_no_gpu() == f"torch {torch.__version__} is built for CPUs alone"


def test_an_old_driver_is_named_by_the_words_of_cuda(no_gpu, monkeypatch):
    def init():
        raise RuntimeError(OLD_DRIVER)

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "init", init)
    assert device.why_no_gpu() == (
        f"torch {torch.__version__}, built for CUDA 12.8: The NVIDIA driver on your system is too old "
        "(found version 11040)."
    )


def test_a_gpu_needs_no_reason(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.why_no_gpu() == ""
    device.require_gpu(resolve("llama31_8b").config)
