"""Files that no run writes: they are rejected, in bounded memory and time, and crash nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compliance import checker, mllog
from harness.base.paths import ROOT
from tests.compliance.logs import compliant_log, lines

MEMORY_KB = 300 * 1024
MEASURED = """
import re, sys
from harness import cli
code = cli.main(["check", sys.argv[1], "--json"])
status = open("/proc/self/status").read()  # getrusage would count this test's own memory: it survives exec
print(code, re.search(r"VmHWM:\\s+(\\d+) kB", status)[1], file=sys.stderr)
"""


RECORD = {**compliant_log()[9], "key": "tracked_stats", "value": None}


def measured(path, timeout_s):
    """Exit code, peak memory in KiB, seconds and document of `check PATH --json` in a process of its own."""
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURED, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=True)
    code, memory_kb = map(int, done.stderr.split()[-2:])
    return code, memory_kb, time.monotonic() - began, json.loads(done.stdout)


def write_lines(path, line, count, *, block=100_000):
    with path.open("wb") as file:
        for _ in range(count // block):
            file.write(line * block)
        file.write("\n".join(lines(compliant_log())).encode() + b"\n")


@pytest.mark.parametrize(
    ("name", "line", "count"),
    [
        ("noise", b"step 1 loss 7.3\n", 1_000_000),
        ("records", lines(compliant_log())[9].encode() + b"\n", 200_000),
        ("malformed", b":::MLLOG x\n", 1_000_000),
        ("nested", b':::MLLOG {"a": ' + b"[" * 1000 + b"]" * 1000 + b"}\n", 10_000),
        (
            "small lists",
            lines([RECORD])[0].replace("null", "[" + "[]," * 9000 + "[]]").encode() + b"\n",
            1000,
        ),
    ],
)
def test_a_million_lines_are_checked_in_bounded_memory(name, line, count, tmp_path):
    write_lines(tmp_path / "result_0.txt", line, count, block=1000)
    code, memory_kb, _, document = measured(tmp_path / "result_0.txt", 120)
    assert memory_kb < MEMORY_KB
    if name == "noise":  # text between the records is every vendor's habit
        assert (code, document["violations"]) == (0, [])
    else:
        assert code == 1 and "C17" in {violation["rule"] for violation in document["violations"]}


@pytest.mark.slow
def test_ten_million_lines_are_streamed(tmp_path):
    path = tmp_path / "result_0.txt"
    write_lines(path, b"step 1 loss 7.3 MLLOG\n", 10_000_000)
    code, memory_kb, seconds, document = measured(path, 600)
    path.unlink()
    assert memory_kb < MEMORY_KB and seconds < 120
    assert document["violations"] == [] and code == 1  # the official tools take no file of 220 MB
    assert "larger than 50 MiB" in document["official"]["compliance_checker_notes"]["result_0.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("token", [b"x", b":::MLLOG "], ids=["noise", "tokens"])
def test_a_line_of_a_gigabyte_is_streamed(token, tmp_path):
    path = tmp_path / "result_0.txt"
    with path.open("wb") as file:
        block = token * ((1 << 20) // len(token))
        for _ in range(1024):
            file.write(block)
        file.write(b"\n" + "\n".join(lines(compliant_log())).encode() + b"\n")
    code, memory_kb, seconds, document = measured(path, 600)
    path.unlink()
    assert code == 1 and memory_kb < MEMORY_KB and seconds < 120
    assert {violation["line"] for violation in document["violations"]} == (set() if token == b"x" else {1})


def violations_of(content, path):
    path.write_bytes(content)
    return checker.check_directory([path], checker.load("6.1.0"))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("bytes") / "result_0.txt"


COMPLIANT = ("\n".join(lines(compliant_log())) + "\n").encode()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=4000))
def test_arbitrary_bytes_are_no_log(content):
    parsed = mllog.parse(content.decode("utf-8", errors="replace").split("\n"), path="x")
    found = checker.check_log(parsed, checker.load("6.1.0"))
    assert any(violation.severity == "error" for violation in found)


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, len(COMPLIANT) - 2))
def test_a_log_cut_at_any_byte_is_rejected(file, cut):
    assert any(violation.severity == "error" for violation in violations_of(COMPLIANT[:cut], file))


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(COMPLIANT) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_crashes_nothing(file, place, byte):
    content = COMPLIANT[:place] + bytes([byte]) + COMPLIANT[place + 1 :]
    assert isinstance(violations_of(content, file), list)


@settings(max_examples=100, deadline=None)
@given(first=st.integers(0, 113), second=st.integers(0, 113))
def test_no_two_different_run_records_can_be_exchanged_unseen(first, second):
    log = compliant_log()
    start = next(i for i, record in enumerate(log) if record["key"] == "run_start")
    first, second = (start + i % (len(log) - start) for i in (first, second))
    swapped = list(log)
    swapped[first], swapped[second] = log[second], log[first]
    found = checker.check_log(mllog.parse(lines(swapped), path="x"), checker.load("6.1.0"))
    assert bool(found) == (swapped != log)


@settings(max_examples=100, deadline=None)
@given(which=st.integers(0, 10_000))
def test_no_record_can_be_left_out_unseen(which):
    log = compliant_log()
    del log[which % len(log)]
    found = checker.check_log(mllog.parse(lines(log), path="x"), checker.load("6.1.0"))
    missing = {record["key"] for record in compliant_log()} - {record["key"] for record in log}
    assert found or missing in (
        {"target_accuracy"},
        {"init_checkpoint_step"},
    )  # which no official key asks for


@settings(max_examples=100, deadline=None)
@given(which=st.integers(0, 10_000))
def test_no_record_can_be_repeated_unseen(which):
    log = compliant_log()
    place = which % len(log)
    log.insert(place, log[place])
    found = checker.check_log(mllog.parse(lines(log), path="x"), checker.load("6.1.0"))
    assert found or log[place]["key"] in (
        "cache_clear",
        "init_start",
        "init_checkpoint_step",
        "target_accuracy",
    )
