"""run.sh with a real Python and a real pip, where a container brings its torch and constrains every installation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.base.paths import ROOT

_HARNESS = """
import importlib.metadata as m, torch
print(torch.__version__, *(m.version(name) for name in ("torch", "needed", "fits")))
"""
_PROJECT = """
[project]
dependencies = ["needed>=2", "fits>=1"]
[project.optional-dependencies]
package = []
train = ["torch>=2", "triton>=3"]
test = []
"""


def put(site: Path, name: str, version: str, *requires: str) -> None:
    """An installed distribution: a package and what pip reads of it."""
    (site / name).mkdir()
    (site / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    information = site / f"{name}-{version}.dist-info"
    information.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    (information / "METADATA").write_text(
        "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), ""])
    )


def wheel(directory: Path, name: str, version: str, *requires: str) -> None:
    staged = directory / f"{name}_{version}"
    staged.mkdir(parents=True)
    put(staged, name, version, *requires)
    information = staged / f"{name}-{version}.dist-info"
    (information / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    (information / "RECORD").write_text("")
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path in sorted(staged.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(staged))
    shutil.rmtree(staged)


@pytest.fixture
def container(tmp_path):
    """A checkout of run.sh; a vendor's virtual environment with a torch, as AMD has it; wheels; constraints."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "vendor"], check=True)
    (site,) = (tmp_path / "vendor/lib").glob("python*/site-packages")
    put(site, "torch", "2.10.0a0+vendor", "triton==3.5.1")
    put(site, "triton", "3.5.1")
    put(site, "needed", "1.0")
    put(site, "fits", "1.5")
    for version in ("1.0", "2.0"):
        wheel(tmp_path / "wheels", "needed", version, "torch>=2")
        wheel(tmp_path / "wheels", "fits", version)
    wheel(tmp_path / "wheels", "torch", "2.13.0")  # what must not replace the vendor's
    (tmp_path / "constraint.txt").write_text("needed==1.0\ntorch==2.10.0a0+vendor\n")
    checkout = tmp_path / "checkout"
    for room in ("base", "contract", "setup"):
        shutil.copytree(ROOT / "harness" / room, checkout / "harness" / room)
    shutil.copy(ROOT / "run.sh", checkout)
    (checkout / "pyproject.toml").write_text(_PROJECT)
    (checkout / "requirements.txt").write_text("torch==2.13.0\ntriton==3.9.0\nneeded==2.0\nfits==2.0\n")
    (checkout / "harness/__main__.py").write_text(_HARNESS)
    return tmp_path


def set_up(container: Path, **more: str) -> subprocess.CompletedProcess[str]:
    path = f"{container}/vendor/bin:{os.environ['PATH']}"
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(container / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    environment = {"PATH": path, "HOME": str(container), **pip, **more}
    command = [str(container / "checkout/run.sh"), "run"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_container_keeps_its_torch_and_its_constraints_do_not_stop_the_set_up(container):
    constraint = str(container / "constraint.txt")
    done = set_up(container, PIP_CONSTRAINT=constraint)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "2.10.0a0+vendor 2.10.0a0+vendor 2.0 1.5\n"
    assert f"setup: ignoring PIP_CONSTRAINT={constraint}" in done.stderr


def test_a_set_up_without_constraints_says_nothing_of_them(container):
    done = set_up(container)
    assert done.returncode == 0 and "PIP_CONSTRAINT" not in done.stderr, done.stderr
