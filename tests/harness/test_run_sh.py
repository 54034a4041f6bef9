"""run.sh with a stand-in for Python: what it starts, what it keeps, what it makes anew. No package is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from harness.base.paths import ROOT

TOOLS = [
    "bash",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sed",
    "sleep",
    "touch",
    "uname",
]

# Writes every call to $root/calls; as `-m venv` it makes a copy of itself; it fails or stalls where a file says so.
STAND_IN = """#!/usr/bin/env bash
here={root}
echo "$*" >>"$here/calls"
case "$*" in
    *version_info*) echo "${{VERSION:-3.11}}" ;;
    "-c import torch; print(torch.__version__)") [[ -e $here/own_torch ]] && echo 2.99.0+vendor || exit 1 ;;
    *"import torch, triton"*) [[ -e $here/brings_all ]] || exit 1 ;;
    *"assert torch"*) exit 1 ;;
    *"m.version"*) echo 2.13.0+cpu ;;
    *"-m venv"*)
        venv=${{@: -1}}
        rm -rf "$venv"
        mkdir -p "$venv/bin"
        cp "$0" "$venv/bin/python" ;;
    *"pip"*"torch=="*) [[ -e $here/stall ]] && {{ touch "$here/stalled"; sleep 60; }} ;;
    *"pip"*) [[ -e $here/pip_fails ]] && exit 1 ;;
    "-m harness"*) echo "in $PWD with $PYTHONPATH" ;;
esac
exit 0
"""


@pytest.fixture
def checkout(tmp_path):
    """A directory with run.sh, pins and a stand-in python3 first on PATH."""
    for name in ("run.sh", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "python3"
    stand_in.write_text(STAND_IN.format(root=tmp_path))
    stand_in.chmod(0o755)
    for tool in TOOLS:  # nothing else is on PATH: this machine's real Pythons must not be found
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def environment(checkout, **more):
    return {"PATH": f"{checkout}/bin", "HOME": str(checkout), **more}


def run(checkout, *arguments, cwd=None, **more):
    return subprocess.run(
        [str(checkout / "run.sh"), *arguments],
        cwd=cwd or checkout,
        env=environment(checkout, **more),
        capture_output=True,
        text=True,
    )


def calls(checkout, part):
    """The recorded calls that contain a text."""
    path = checkout / "calls"
    return [line for line in path.read_text().splitlines() if part in line] if path.exists() else []


def test_the_scripts_are_valid_shell():
    for name in ("run.sh", ".ci/run"):
        subprocess.run(["bash", "-n", ROOT / name], check=True)
        assert os.access(ROOT / name, os.X_OK)


def test_first_use_sets_up_once_and_says_so_on_stderr(checkout):
    first = run(checkout, "plan", "--json")
    assert first.returncode == 0 and first.stderr.count("setup: ") >= 3
    assert first.stdout == f"in {checkout} with {checkout}\n"
    assert (checkout / ".venv/.complete").read_text() == (checkout / "requirements.txt").read_text()
    second = run(checkout, "plan")
    assert second.stderr == "" and len(calls(checkout, "-m venv")) == 1
    assert calls(checkout, "-m harness") == ["-m harness plan --json", "-m harness plan"]


def test_the_callers_directory_stays(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(checkout, "check")
    assert run(checkout, "check", "log.txt", cwd=elsewhere).stdout == f"in {elsewhere} with {checkout}\n"


def test_a_torch_that_is_there_is_kept_and_pinned(checkout):
    (checkout / "own_torch").touch()
    assert run(checkout, "plan").returncode == 0
    assert calls(checkout, "--system-site-packages")
    assert not calls(checkout, "install torch==")
    assert (checkout / ".venv/torch.txt").read_text() == "torch==2.99.0+vendor\n"
    assert "torch==" not in (checkout / ".venv/pins.txt").read_text()


def test_a_failed_set_up_stops_and_the_next_call_starts_anew(checkout):
    (checkout / "pip_fails").touch()
    failed = run(checkout, "plan")
    assert failed.returncode == 3 and "run the same command again" in failed.stderr
    assert not calls(checkout, "-m harness")
    (checkout / "pip_fails").unlink()
    assert run(checkout, "plan").returncode == 0
    assert len(calls(checkout, "-m venv")) == 2


def test_a_killed_set_up_is_made_anew(checkout):
    (checkout / "stall").touch()
    process = subprocess.Popen(
        [str(checkout / "run.sh"), "plan"],
        env=environment(checkout),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (checkout / "stalled").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, 9)
    process.wait()
    assert (checkout / ".venv/bin/python").exists() and not (checkout / ".venv/.complete").exists()
    (checkout / "stall").unlink()
    assert run(checkout, "plan").returncode == 0
    assert len(calls(checkout, "-m venv")) == 2 and len(calls(checkout, "-m harness")) == 1


def test_changed_pins_are_installed_into_the_environment_that_is_there(checkout):
    run(checkout, "plan")
    with (checkout / "requirements.txt").open("a") as pins:
        pins.write("einops==0.8.1\n")
    run(checkout, "plan")
    assert len(calls(checkout, "-m venv")) == 1 and len(calls(checkout, "pins.txt")) == 2


def test_concurrent_first_uses_make_one_environment(checkout):
    processes = [
        subprocess.Popen(
            [str(checkout / "run.sh"), "plan"], env=environment(checkout), stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0] * 4
    assert len(calls(checkout, "-m venv")) == 1 and len(calls(checkout, "-m harness")) == 4


def test_qualify_needs_no_environment_where_python_brings_all_it_imports(checkout):
    (checkout / "brings_all").touch()
    first = run(checkout, "qualify", "--minutes", "1")
    assert first.returncode == 0 and first.stdout == f"in {checkout} with {checkout}\n"
    assert "no .venv is made" in first.stderr and not (checkout / ".venv").exists()
    run(checkout, "plan")
    assert (checkout / ".venv/.complete").exists(), "other commands make it as ever"
    (checkout / "brings_all").unlink()
    assert run(checkout, "qualify").stderr == "", "and where it is there it is used"


def test_qualify_makes_the_environment_where_something_is_missing(checkout):
    assert run(checkout, "qualify").returncode == 0 and (checkout / ".venv/.complete").exists()


def test_an_old_python_is_refused_by_its_version(checkout):
    failed = run(checkout, "plan", VERSION="3.9")
    assert failed.returncode == 3 and "found no Python >= 3.10" in failed.stderr and "is 3.9" in failed.stderr


def test_a_later_call_costs_little_beside_python(checkout, record_property):
    run(checkout, "plan")
    times_s = []
    for _ in range(5):
        start = time.perf_counter()
        run(checkout, "plan")
        times_s.append(time.perf_counter() - start)
    record_property("later_call_s", min(times_s))
    assert min(times_s) < 0.3
