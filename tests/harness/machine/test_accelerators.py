"""GPUs are counted by what the kernel shows of them."""

from __future__ import annotations

from pathlib import Path

from harness.machine import accelerators


def devices(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("0\n" if "/0/" in path else "4098\n")
    return root


def test_gpus_are_counted_by_their_device_files(tmp_path):
    assert accelerators.accelerators(devices(tmp_path / "none", "dev/null")) == 0
    nvidia = devices(tmp_path / "nvidia", "dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm")
    assert accelerators.accelerators(nvidia) == 2
    node = "sys/class/kfd/kfd/topology/nodes"
    amd = devices(tmp_path / "amd", "dev/kfd", *(f"{node}/{index}/gpu_id" for index in range(9)))
    assert accelerators.accelerators(amd) == 8, "node 0 is the CPU"
