"""run.sh with a stand-in for Python: what it starts, what it keeps, what it makes anew. No package is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from harness.base.paths import ROOT
from tests.busy import ENDLESS_S

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
    "stat",
    "touch",
    "uname",
]

# Writes every call to $root/calls; as `-m venv` it makes a copy of itself; it fails or stalls where a file says so.
STAND_IN = """#!/usr/bin/env bash
here={root}
echo "$*" >>"$here/calls"
case "$*" in
    *version_info*) echo "${{VERSION:-3.11}}" ;;
    *find_spec*) [[ -e $here/own_torch ]] || exit 1 ;;
    *"import torch, triton"*) [[ -e $here/brings_all ]] || exit 1 ;;
    *"-m venv"*)
        venv=${{@: -1}}
        rm -rf "$venv"
        mkdir -p "$venv/bin"
        cp "$0" "$venv/bin/python" ;;
    *"harness.setup"*)
        [[ -e $here/stall ]] && {{ touch "$here/stalled"; sleep 60; }}
        [[ -e $here/pip_fails ]] && exit 3 ;;
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
    assert first.returncode == 0 and first.stderr.count("setup: ") >= 2
    assert first.stdout == f"in {checkout} with {checkout}\n"
    assert (checkout / ".venv/.light").read_text() == (checkout / "requirements.txt").read_text()
    second = run(checkout, "plan")
    assert second.stderr == "" and len(calls(checkout, "-m venv")) == 1
    assert calls(checkout, "-m harness ") == ["-m harness plan --json", "-m harness plan"]


def layers(checkout):
    """Those that were installed, in order."""
    return [line.split()[2] for line in calls(checkout, "-m harness.setup ")]


def test_the_list_of_commands_needs_no_environment(checkout):
    for option in ("--help", "-h", "help"):
        assert run(checkout, option).returncode == 0
    assert not (checkout / ".venv").exists() and calls(checkout, "-m harness") == ["-m harness --help"] * 3


@pytest.mark.parametrize(
    ("arguments", "layer"),
    [
        ("check x", "light"),
        ("run --help", "light"),
        ("package verify x", "package"),
        ("", "train"),
        ("--profile proxy", "train"),
        ("run", "train"),
        ("setup", "train"),
        ("test", "test"),
    ],
)
def test_a_command_gets_the_layer_that_it_needs(checkout, arguments, layer):
    assert run(checkout, *arguments.split()).returncode == 0
    assert layers(checkout) == [layer]


def test_setup_makes_the_environment_and_starts_nothing(checkout):
    assert run(checkout, "setup").returncode == 0 and run(checkout, "setup").stderr == ""
    assert not calls(checkout, "-m harness ")


def test_training_is_added_to_the_environment_that_is_there_and_holds_the_light_layer(checkout):
    for arguments in ("check", "run", "score", "run"):
        assert run(checkout, arguments).returncode == 0
    assert layers(checkout) == ["light", "train"] and len(calls(checkout, "-m venv")) == 1


def test_an_environment_of_an_earlier_version_is_kept(checkout):
    run(checkout, "check")
    (checkout / ".venv/.light").rename(checkout / ".venv/.complete")
    assert run(checkout, "check").returncode == 0
    assert layers(checkout) == ["light", "light"] and len(calls(checkout, "-m venv")) == 1


def test_a_wider_layer_serves_the_light_one(checkout):
    run(checkout, "run")
    run(checkout, "check")
    assert layers(checkout) == ["train"]
    run(checkout, "test")
    run(checkout, "package", "verify")
    assert layers(checkout) == ["train", "test"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_of_somebody_else_is_used_and_never_changed(checkout):
    run(checkout, "check")
    (checkout / ".venv").chmod(0o555)
    try:
        assert run(checkout, "check").returncode == 0
        refused = run(checkout, "run")
    finally:
        (checkout / ".venv").chmod(0o755)
    assert refused.returncode == 3 and "clone the repository for yourself" in refused.stderr
    assert layers(checkout) == ["light"]


def test_the_callers_directory_stays(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(checkout, "check")
    assert run(checkout, "check", "log.txt", cwd=elsewhere).stdout == f"in {elsewhere} with {checkout}\n"


def test_an_environment_reaches_the_torch_of_its_python(checkout):
    (checkout / "own_torch").touch()
    assert run(checkout, "plan").returncode == 0
    assert calls(checkout, "-m venv --clear --system-site-packages")


def test_a_failed_set_up_stops_and_the_next_call_starts_anew(checkout):
    (checkout / "pip_fails").touch()
    failed = run(checkout, "plan")
    assert failed.returncode == 3
    assert not calls(checkout, "-m harness ")
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
    assert (checkout / ".venv/bin/python").exists() and not (checkout / ".venv/.light").exists()
    (checkout / "stall").unlink()
    assert run(checkout, "plan").returncode == 0
    assert len(calls(checkout, "-m venv")) == 2 and len(calls(checkout, "-m harness ")) == 1


def test_changed_pins_are_installed_into_the_environment_that_is_there(checkout):
    run(checkout, "plan")
    with (checkout / "requirements.txt").open("a") as pins:
        pins.write("einops==0.8.1\n")
    run(checkout, "plan")
    assert len(calls(checkout, "-m venv")) == 1 and layers(checkout) == ["light", "light"]


def test_concurrent_first_uses_make_one_environment(checkout):
    processes = [
        subprocess.Popen(
            [str(checkout / "run.sh"), "plan"], env=environment(checkout), stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    assert [process.wait(timeout=ENDLESS_S) for process in processes] == [0] * 4
    assert len(calls(checkout, "-m venv")) == 1 and len(calls(checkout, "-m harness ")) == 4


def test_qualify_needs_no_environment_where_python_brings_all_it_imports(checkout):
    (checkout / "brings_all").touch()
    first = run(checkout, "qualify", "--minutes", "1")
    assert first.returncode == 0 and first.stdout == f"in {checkout} with {checkout}\n"
    assert "which has all packages that qualify needs" in first.stderr and not (checkout / ".venv").exists()
    run(checkout, "plan")
    assert layers(checkout) == ["light"], "other commands make it as ever"
    (checkout / "brings_all").unlink()
    assert run(checkout, "run").returncode == 0 and run(checkout, "qualify").stderr == ""


def test_qualify_makes_the_environment_where_something_is_missing(checkout):
    assert run(checkout, "qualify").returncode == 0 and layers(checkout) == ["train"]


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
