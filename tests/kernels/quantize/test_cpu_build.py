from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness.base.paths import ROOT
from kernels.quantize import cpu, cpu_build

needs_compiler = pytest.mark.skipif(
    shutil.which(cpu_build.COMPILER) is None, reason="no C++ compiler on the PATH"
)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A source that compiles in a moment and answers 7."""
    source = tmp_path / "source" / "tiny.cpp"
    source.parent.mkdir()
    source.write_text('extern "C" int quantize_dequantize(const void*) { return 7; }\n')
    monkeypatch.setattr(cpu_build, "_SOURCE", source)
    return source


def script(tmp_path, name, body):
    """A compiler of our own making."""
    path = tmp_path / name
    path.write_text(f'#!/bin/sh\ncase "$1" in --version) echo fake 1.0; exit 0;; esac\n{body}\n')
    path.chmod(0o755)
    return str(path)


def libraries(folder):
    return sorted(path.name for path in folder.iterdir())


@needs_compiler
def test_a_library_is_built_once_and_kept(tiny, tmp_path):
    cache = tmp_path / "cache"
    assert cpu_build.load(directory=cache)(None) == 7
    [name] = libraries(cache)
    before = (cache / name).stat().st_mtime_ns
    assert cpu_build.load(directory=cache)(None) == 7
    assert (cache / name).stat().st_mtime_ns == before
    tiny.write_text(tiny.read_text().replace("7", "8"))
    assert cpu_build.load(directory=cache)(None) == 8  # another source is another library
    assert len(libraries(cache)) == 2


@needs_compiler
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" + b[1:]])
def test_a_damaged_library_is_built_again(tiny, tmp_path, damage):
    good, bad = tmp_path / "good", tmp_path / "bad"
    cpu_build.load(directory=good)
    [name] = libraries(good)
    bad.mkdir()
    (bad / name).write_bytes(damage((good / name).read_bytes()))
    assert cpu_build.load(directory=bad)(None) == 7
    assert cpu_build._is_intact(bad / name)


@needs_compiler
def test_builds_at_the_same_time_do_not_disturb_one_another(tiny, tmp_path):
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: cpu_build.load(directory=cache), range(6)))
    assert [function(None) for function in loaded] == [7] * 6
    assert len(libraries(cache)) == 1  # and no scratch folder left


@needs_compiler
def test_a_home_that_cannot_be_written_is_replaced_by_a_private_temporary_folder(tiny, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cpu_build.load()(None) == 7
    [folder] = tmp_path.glob("fourmark-*")
    assert folder.stat().st_mode & 0o777 == 0o700 and len(libraries(folder)) == 1


@needs_compiler
def test_a_temporary_folder_that_others_may_write_is_not_trusted(tiny, tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    [*_, foreign] = cpu_build._folders()
    foreign.chmod(0o777)
    assert cpu_build.load()(None) == 7
    assert libraries(foreign) == []


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ('echo "error: no such instruction" >&2; exit 1', "exits with 1: error: no such instruction"),
        ("exit 0", "library.so"),  # a compiler that writes nothing
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "quantize-"),  # no library
    ],
)
def test_a_compiler_that_fails_costs_a_notice_and_no_run(tmp_path, body, why):
    compiler = script(tmp_path, "cc", body)
    with pytest.warns(UserWarning, match="torch operations") as notices:
        assert cpu._load(compiler, tmp_path / "cache") is None
    assert len(notices) == 1 and why in str(notices[0].message)


@needs_compiler
def test_a_library_with_other_bits_than_the_specification_is_not_used(tmp_path):
    wrong = tmp_path / "wrong.cpp"
    wrong.write_text('extern "C" int quantize_dequantize(const void*) { return 0; }\n')
    body = f'while [ "$1" != -o ]; do shift; done; exec {shutil.which("c++")} -shared -fPIC -o "$2" {wrong}'
    with pytest.warns(UserWarning, match="differs from the specification"):
        assert cpu._load(script(tmp_path, "cc", body), tmp_path / "cache") is None


@needs_compiler
def test_the_real_source_compiles_without_a_notice(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cpu._load(cpu_build.COMPILER, tmp_path) is not None


def test_without_a_compiler_training_goes_on_with_one_notice_that_says_why(tmp_path):
    program = (
        "import torch; from kernels.quantize import cpu, reference; from kernels.recipe import Quantizer\n"
        "x = torch.randn(64, 96); q = Quantizer(hadamard=16)\n"
        "for _ in range(3): got = cpu.quantize_dequantize(x, q)\n"
        "assert torch.equal(got, reference.dequantize(reference.quantize(x, q)).bfloat16())\n"
        "print(cpu.engine())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout == "eager\n"
    assert done.stderr.count("using torch operations") == 1
    assert "no compiler: c++ is not on the PATH" in done.stderr
