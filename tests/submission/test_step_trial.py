"""What a trial counts in a profiler's trace, and how it finds a wait of the host: parts that a CPU can show."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from harness.contract import qualify_rows
from harness.contract.qualify_rows import TrialAnswer
from submission.corpus import byte_corpus
from submission.tools import step_trial


def event(cat: str, name: str, ts: float, dur: float = 1.0) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}


def test_a_trace_tells_launches_waits_inside_the_step_and_busiest_kernels():
    found = step_trial.counted(
        [
            event("user_annotation", "the step", 10, 100),
            event("gpu_user_annotation", "the step", 12, 90),
            *(event("kernel", "quantize_kernel", 20 + i) for i in range(3)),
            event("kernel", "gemm", 30),
            event("gpu_memcpy", "Memcpy HtoD", 31),
            event("cuda_runtime", "cudaLaunchKernel", 19),
            event("cuda_runtime", "cudaStreamSynchronize", 50),
            event("cuda_runtime", "hipEventSynchronize", 60),
            event("cuda_runtime", "cudaDeviceSynchronize", 150),  # the profiler's own
            {"name": "process_name", "ph": "M"},
        ]
    )
    assert found == {
        "calls": {"kernel": 4, "gpu_memcpy": 1},
        "waits": {"cudaStreamSynchronize": 1, "hipEventSynchronize": 1},
        "busiest": {"quantize_kernel": 3, "gemm": 1},
    }


def test_a_trace_without_a_gpu_is_no_answer():
    with pytest.raises(ValueError, match="the profiler saw no work of the GPU"):
        step_trial.counted([event("cpu_op", "aten::mm", 1)])


class Debugging:
    """torch.cuda.set_sync_debug_mode, and a read that obeys it."""

    def __init__(self, monkeypatch):
        self.mode = "default"
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self.mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "mode", mode))

        def item(tensor):
            if self.mode == "error":
                raise RuntimeError("called a synchronizing CUDA operation\nand more")
            return 1.0

        monkeypatch.setattr(torch.Tensor, "item", item)


def step_in(filename: str):
    """An executor whose step reads a value at line 3 of a file."""
    scope: dict = {}
    source = compile("\n\ndef train_step(): return x.item()\n", filename, "exec")
    exec(source, {"x": torch.ones(())}, scope)
    return SimpleNamespace(train_step=scope["train_step"])


def test_a_read_stops_the_step_and_is_located(monkeypatch):
    debugging, before = Debugging(monkeypatch), torch.Tensor.item
    found = step_trial._without_waits(step_in("/somewhere/submission/loss.py"))
    assert found == {"sync_failure": "submission/loss.py:3: called a synchronizing CUDA operation"}
    assert debugging.mode == "default" and torch.Tensor.item is before


def test_every_warned_line_is_counted(monkeypatch):
    Debugging(monkeypatch)
    scope: dict = {}
    text = (
        "import warnings\ndef train_step():\n for _ in range(2): warnings.warn('called a synchronizing op')\n"
    )
    exec(compile(text, "/somewhere/kernels/layer.py", "exec"), scope)
    found = step_trial._sites(SimpleNamespace(train_step=scope["train_step"]))
    assert found == {"sync_sites": {"kernels/layer.py:3": 2}}


def test_an_error_while_looking_closer_is_told_and_ends_nothing(tmp_path):
    trial = step_trial.Trial(tmp_path, writes=True)
    trial.tell(loss=(1.0,))
    trial.attempt_to("profiling", lambda: (_ for _ in ()).throw(ValueError("no CUPTI\nmore")))
    trial.attempt_to("proving", lambda: {"proven": True})
    with contextlib.suppress(KeyError):
        step_trial.Trial(tmp_path / "other", writes=False).tell(stage="done")
    found = qualify_rows.read_trial(tmp_path)
    assert found.loss == (1.0,) and found.proven and not (tmp_path / "other").exists()
    assert found.trouble == ("profiling: ValueError: no CUPTI (outside this project and Megatron)",)


def test_the_byte_corpus_is_what_python_carries(tmp_path):
    from submission import device

    device.install()
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    (tmp_path / "a.py").write_bytes(b"ab\xff")
    (tmp_path / "b.py").write_bytes(b"")
    (tmp_path / "c.py").write_bytes(b"x" * 10)
    texts = byte_corpus.documents(tmp_path, largest=10)
    assert texts == [b"ab\xff"]
    assert byte_corpus.write(tmp_path / "train", texts) == 4
    written = IndexedDataset(str(tmp_path / "train"))  # kept: documents are views of its mapped file
    assert written[0].tolist() == [98, 99, 256, 0]


def test_an_answer_survives_its_file(tmp_path):
    told = TrialAnswer(stage="done", loss=(1.0, float("nan")), calls={"kernel": 3}, sync_failure="")
    qualify_rows.write_trial(tmp_path, told)
    assert str(qualify_rows.read_trial(tmp_path)) == str(told) and told.launches == 3
