"""pip for our environment: what of other people's configuration holds, and what it tells. Nothing is fetched."""

from __future__ import annotations

import zipfile

import pytest

from harness.setup import pip


@pytest.fixture
def wheels(tmp_path):
    """Two versions of a package, in a directory that pip.conf names, with a constraint that excludes the second."""
    for version in ("1.0", "2.0"):
        info = f"demo-{version}.dist-info"
        with zipfile.ZipFile(tmp_path / f"demo-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("demo.py", f"VERSION = {version}\n")
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: demo\nVersion: {version}\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    (tmp_path / "constraint.txt").write_text("demo==1.0\n")
    return tmp_path


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_constraint_of_a_container_does_not_reach_our_environment(wheels, where, monkeypatch, capfd):
    lines = ["[global]", "no-index = true", f"find-links = {wheels}"]
    if where == "file":
        lines.append(f"constraint = {wheels / 'constraint.txt'}")
    else:
        monkeypatch.setenv("PIP_CONSTRAINT", str(wheels / "constraint.txt"))
    monkeypatch.setenv("PIP_REQUIRE_VIRTUALENV", "1")
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    (wheels / "pip.conf").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(wheels / "pip.conf"))
    target = wheels / "target"
    pip.install(["demo>=1"], constraints=["demo==2.0"], options=["--target", str(target)])
    assert (target / "demo.py").read_text() == "VERSION = 2.0\n"
    assert "setup: package 1 of 1: demo 2.0 (0.0 MB), " in capfd.readouterr().err


def test_a_package_that_is_not_there_is_told_with_what_pip_said(wheels, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    with pytest.raises(pip.PipFailed, match="No matching distribution found for demo"):
        pip.install(["demo==3.0"])


def test_every_package_is_told_with_its_number_and_bytes():
    lines = [
        "Collecting numpy>=1.26",
        "  Downloading numpy-2.4.6-cp311-cp311-manylinux.whl.metadata (6.6 kB)",
        "  Using cached numpy-2.4.6-cp311-cp311-manylinux.whl (16.9 MB)",
        "  Downloading typing_extensions-4.15.0-py3-none-any.whl (44 kB)",
        "Installing collected packages: numpy, typing_extensions",
    ]
    told = [line.rpartition(",")[0] for line in pip.progress(iter(lines), 2)]
    assert told == [
        "setup: package 1 of 2: numpy 2.4.6 (16.9 MB)",
        "setup: package 2 of 2: typing_extensions 4.15.0 (44 kB)",
        "setup: unpacking 2 packages",
    ]


def test_a_pip_that_cannot_count_installs_all_the_same(wheels, monkeypatch, capfd):
    monkeypatch.setattr(pip, "_version", lambda: (22, 0))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    pip.install(["demo==1.0"], options=["--target", str(wheels / "target")])
    assert (wheels / "target" / "demo.py").exists()
    assert "setup: package 1: demo 1.0 (" in capfd.readouterr().err
