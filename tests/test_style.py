"""The tools that hold the house style, with the settings of pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from harness.base.paths import ROOT


@pytest.mark.parametrize(
    "tool", [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)], ids=["lint", "format", "types"]
)
def test_the_tree_is_clean(tool):
    done = subprocess.run([sys.executable, "-m", *tool], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


LAX = """import json
def untyped(x): return x
def bare(x: dict) -> int: return json.loads("1")
"""


@pytest.mark.parametrize("package", ["compliance"])
def test_the_types_of_a_package_are_strict(package, tmp_path):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / package / "lax.py").write_text(LAX)
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache")]
    command = [sys.executable, "-m", "mypy", *settings, f"{package}/lax.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert {"no-untyped-def", "type-arg", "no-any-return"} == set(
        re.findall(r"\[([\w-]+)\]$", done.stdout, re.M)
    )
