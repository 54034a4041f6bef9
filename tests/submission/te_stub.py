"""Transformer Engine's own Python sources, imported without its compiled module and without a GPU.

For contract tests alone, in a process of their own: the shared library is not loaded, the compiled module
transformer_engine_torch is tests/submission/te_compiled.py, torch.cuda claims a Hopper GPU, and tensors of the CPU say
that they are on it, to Transformer Engine alone. docs/transformer_engine.md says where the sources come from.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch.overrides import TorchFunctionMode

from harness.base.paths import ROOT
from tests.busy import ENDLESS_S

BESIDE = (
    Path(sys.prefix) / "transformer_engine_sources"
)  # not on the path: Megatron fails on a half installed one
MISSING = (
    "Transformer Engine's Python sources are not beside the environment: the contract with it is unchecked; "
    f"{sys.executable} -m pip install --target {BESIDE} transformer_engine==2.20.2 pydantic==2.13.0"
)

# Thin layers over compiled attention, and what needs packages that a run does not: answered by placeholders
_PLACEHOLDERS = tuple(
    f"transformer_engine.pytorch.{name}"
    for name in ("attention", "cpp_extensions.fused_attn", "onnx_extensions", "transformer", "triton")
)


def sources() -> Path | None:
    """The package's folder, where the command above puts it; FOURMARK_TE_SOURCES names one of another version."""
    found = Path(os.environ.get("FOURMARK_TE_SOURCES", BESIDE)) / "transformer_engine"
    return found if (found / "pytorch").is_dir() and (BESIDE / "pydantic").is_dir() else None


def child(module: str) -> dict[str, Any]:
    """What a test module's process of its own found: these stubs would mislead every later test of this one."""
    command = [sys.executable, "-m", f"tests.submission.{module}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ENDLESS_S)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def version(package: Path) -> str:
    """As the package's metadata says."""
    (metadata,) = package.parent.glob("transformer_engine-*.dist-info/METADATA")
    return next(line.split()[1] for line in metadata.read_text().splitlines() if line.startswith("Version:"))


def install(package: Path) -> None:
    """Make `import transformer_engine.pytorch` work in this process."""
    from tests.submission import te_compiled

    sys.modules["transformer_engine_torch"] = te_compiled.module()
    top = _package("transformer_engine", package)
    common = _package("transformer_engine.common", package / "common")
    top.common, top.__version__ = common, version(package)  # type: ignore[attr-defined]
    common.load_framework_extension = lambda *_: None  # type: ignore[attr-defined]
    common.decode_cudnn_version = lambda *_: (9, 14, 0)  # type: ignore[attr-defined]
    sys.path.append(str(BESIDE))  # for pydantic, which Transformer Engine's recipes are made with
    sys.meta_path.insert(0, _Placeholders())
    _claim_a_gpu()
    import transformer_engine.pytorch
    from transformer_engine.pytorch.cpp_extensions import gemm

    top.pytorch = transformer_engine.pytorch  # type: ignore[attr-defined]
    # nothing but compiled kernels in there: without it Megatron takes torch's optimizer
    sys.modules["transformer_engine.pytorch.optimizers"] = types.ModuleType(
        "transformer_engine.pytorch.optimizers"
    )
    gemm.get_cublas_workspace = lambda *_: torch.empty(1, dtype=torch.uint8)


class OnGpu(TorchFunctionMode):
    """CPU tensors pass for CUDA tensors where Transformer Engine asks; new CUDA tensors are made on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if getattr(func, "__self__", None) is torch.Tensor.is_cuda:
            return _asked_by_transformer_engine()
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


def backward(output: torch.Tensor, grad_tensors: torch.Tensor | None = None, *_: Any, **__: Any) -> None:
    """As torch.autograd.backward, which would leave the mode."""
    gradient = torch.ones_like(output) if grad_tensors is None else grad_tensors  # one output alone
    engine = torch.autograd.Variable._execution_engine
    engine.run_backward(
        (output,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes empty packages that have every name one asks for: capitals are classes, the rest mocks."""

    def find_spec(self, name: str, *_: Any) -> Any:
        wanted = any(f"{name}.".startswith(f"{prefix}.") for prefix in _PLACEHOLDERS) and "._" not in name
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if wanted else None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        module.__getattr__ = _unknown  # type: ignore[method-assign]


def _package(name: str, path: Path) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = [str(path)]
    module.__getattr__ = _unknown  # type: ignore[method-assign]
    sys.modules[name] = module
    return module


def _unknown(name: str) -> Any:
    if (
        name.startswith("__") or name == "_SplitAlongDim"
    ):  # 2.20 has it no longer: Megatron then uses torch.split
        raise AttributeError(name)
    return type(name, (torch.nn.Module,), {}) if name[0].isupper() else MagicMock(name=name)


def _asked_by_transformer_engine() -> bool:
    """Whether the question comes from their code; ours and Megatron's are told the truth."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__") in (__name__, "submission.device"):  # the two modes that pass it on
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")).startswith("transformer_engine")


def _claim_a_gpu() -> None:
    torch.autograd.backward = backward
    cuda: Any = torch.cuda
    cuda.is_available = _asked_by_transformer_engine
    cuda.device_count = lambda: 1
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.nvtx = MagicMock(name="nvtx")
    cuda.Stream = MagicMock(name="Stream")
    cuda.current_device = lambda: 0
    cuda.is_current_stream_capturing = lambda: False
    become(9)


def become(major: int) -> None:
    """Claim a GPU of this compute capability: 9 Hopper, 10 Blackwell."""
    cuda: Any = torch.cuda
    cuda.get_device_capability = lambda *_: (major, 0)
    cuda.get_device_properties = lambda *_: types.SimpleNamespace(
        major=major, minor=0, multi_processor_count=132
    )
    theirs = [module for name, module in sys.modules.items() if name.startswith("transformer_engine.")]
    for module in theirs:  # answers that they keep
        for name, value in list(vars(module).items()):
            if callable(forget := getattr(value, "cache_clear", None)):
                forget()
            if name.startswith("_") and name.endswith("_SUPPORT"):
                setattr(module, name, None)
