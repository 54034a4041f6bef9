"""Fourmark as a library, and as a wheel that shares an environment with other people's packages."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys
import types

import pytest

import kernels
from harness.base.errors import UserError
from harness.base.paths import ROOT
from tests.compliance.logs import compliant_log, write
from tests.harness.test_light import without

sys.path.append(str(ROOT / "launch"))
import fourmark as installed


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("logs")
    for name, changes in (("a", {}), ("b", {"opt_adamw_epsilon": 1e-8})):
        (directory / name).mkdir()
        write(directory / name, *(compliant_log(run=run, **changes) for run in range(10)))
    return directory


def test_the_library_loads_checks_and_compares(logs):
    ours, baseline = installed.load(logs / "a"), installed.load(str(logs / "b"))
    assert len(ours.runs) == 10
    assert not [one for one in installed.check(logs / "a") if one.severity == "error"]
    assert {one.key for one in installed.check(logs / "b", "6.1.0") if one.severity == "error"} == {
        "opt_adamw_epsilon"
    }
    (pair,) = installed.compare(ours, baseline).pairs
    assert pair.ratios
    with pytest.raises(UserError, match="nowhere"):
        installed.load(logs / "nowhere")


def test_the_examples_of_the_library_hold():
    assert doctest.testmod(installed).failed == 0 and doctest.testmod(installed).attempted == 1


def test_a_transform_of_the_library_is_undone():
    row = installed.quantise([[1.0] * 16 + [0.0] * 16], hadamard=16)
    assert row.tolist() == [[1.0] * 16 + [0.0] * 16]


def test_another_projects_kernels_are_not_taken_for_ours(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "kernels", types.SimpleNamespace(__file__="/elsewhere/kernels/__init__.py")
    )
    with pytest.raises(ImportError, match="expected Fourmark's"):
        installed.quantise([[0.0] * 32])
    assert kernels.__file__


@pytest.mark.parametrize("command", ["main", "run", "kernels", "study"])
def test_a_command_that_trains_says_what_to_install(command, logs):
    done = without("harness", command, cwd=logs)
    assert (
        done.returncode == 3 and "torch is not installed" in done.stderr and "fourmark[train]" in done.stderr
    )


@pytest.mark.slow
def test_the_wheel_brings_one_package_and_a_script_that_works_anywhere(tmp_path, logs):
    """Builds it, which fetches the build's backend."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", str(target), str(ROOT)]
    subprocess.run(pip, check=True)
    assert {path.name for path in target.iterdir() if path.suffix != ".dist-info"} == {"fourmark", "bin"}
    (target / "kernels").mkdir()
    (target / "kernels" / "__init__.py").write_text("OWNER = 'another project'\n")
    environment = {**os.environ, "PYTHONPATH": str(target)}
    environment.pop("PYTHONSAFEPATH", None)

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], cwd=logs, env=environment, capture_output=True, text=True
        )

    theirs = run("-c", "import fourmark, kernels; print(kernels.OWNER, len(fourmark.load('a').runs))")
    assert theirs.stdout == "another project 10\n", theirs.stderr
    script = str(target / "bin" / "fourmark")
    compared = run(script, "compare", "--public", "v6.0/AMD/MI355X", "v5.1/AMD/MI355X")
    assert compared.returncode == 0 and "AMD" in compared.stdout, compared.stderr
    assert run(script, "check", "--skip-official", "a").returncode == 0
    assert run(script, "--help").stdout.startswith("usage: fourmark ")
    quantised = run(
        script, "kernels", "quantize", "--help"
    )  # a child of the script: it finds ours, not theirs
    assert quantised.returncode == 0 and "--format" in quantised.stdout, quantised.stderr
