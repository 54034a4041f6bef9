"""Runs pip for our environment only, and prints a line for each package that it fetches."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.base.stderr import tell
from harness.contract.environment import pip_environment

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
_FETCHED = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) "
    r"(?P<file>(?:\S*/)?(?P<name>[^/\s]+?)-(?P<version>\d[^-\s]*)\S*(?:\.whl|\.tar\.gz))(?!\.metadata)"
    r"(?: \((?P<size>[\d.]+ ?[kMG]?B)\))?"
)
# Options of pip's configuration files that say where packages come from. Constraints and target directories are left
# out, because they are not meant for our environment.
_NETWORK = (
    "cert",
    "client-cert",
    "extra-index-url",
    "find-links",
    "index-url",
    "no-index",
    "proxy",
    "retries",
    "timeout",
    "trusted-host",
)
_LAST_LINES = 12
_REPORTS = (22, 2)  # the first pip that can resolve without installing; Ubuntu 22.04 has 22.0


class PipFailed(Exception):
    """pip failed; the message is the end of its output."""


def install(
    requirements: Sequence[str], *, constraints: Sequence[str] = (), options: Sequence[str] = ()
) -> None:
    """Install packages, and print each one as it arrives.

    Raises:
        PipFailed: pip failed; the message is the end of its output.
    """
    if not requirements:
        return
    environment = pip_environment(configured())
    with tempfile.TemporaryDirectory(prefix="setup-") as scratch:
        wanted, bounds = Path(scratch) / "wanted.txt", Path(scratch) / "constraints.txt"
        wanted.write_text("\n".join(requirements), encoding="utf-8")
        bounds.write_text("\n".join(constraints), encoding="utf-8")
        command = [*_PIP, "install", "-r", str(wanted), "-c", str(bounds), *options]
        many = _count(command, Path(scratch) / "report.json", environment)
        _run([*command, "--progress-bar", "off"], many, environment)


def configured() -> dict[str, str]:
    """Options of pip's configuration files that say where packages come from."""
    done = subprocess.run([*_PIP, "config", "list"], capture_output=True, text=True, check=False)
    found = re.findall(r"^(?:global|install)\.([\w-]+)='(.*)'$", done.stdout, re.M)
    return {name: value.encode().decode("unicode_escape") for name, value in found if name in _NETWORK}


def _count(command: Sequence[str], report: Path, environment: dict[str, str]) -> int:
    """Number of packages to install, which pip resolves in a few seconds; 0 where this pip cannot tell."""
    if _version() < _REPORTS:
        return 0
    resolve = [*command, "--dry-run", "--quiet", "--report", str(report)]
    done = subprocess.run(resolve, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipFailed((done.stderr or done.stdout).strip())
    return len(json.loads(report.read_text(encoding="utf-8"))["install"])


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in importlib.metadata.version("pip").split(".")[:2])


def _run(command: Sequence[str], many: int, environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    last: deque[str] = deque(maxlen=_LAST_LINES)
    for line in progress(_kept(process.stdout, last), many):
        tell(line)
    if process.wait():
        raise PipFailed("".join(last).strip())


def _kept(lines: Iterator[str], last: deque[str]) -> Iterator[str]:
    for line in lines:
        last.append(line)
        yield line


def progress(lines: Iterator[str], many: int) -> Iterator[str]:
    """Progress lines from pip's output: which package of how many (0: unknown), its size, the seconds so far."""
    began, count = time.monotonic(), 0
    for line in lines:
        if found := _FETCHED.match(line):
            count += 1
            size = found["size"] or _bytes(Path(found["file"]))
            package = f"{found['name']} {found['version']} ({size})"
            of = f" of {many}" if many else ""
            yield f"setup: package {count}{of}: {package}, {time.monotonic() - began:.0f} s"
        elif line.startswith("Installing collected packages"):
            yield f"setup: unpacking {many or count} packages, {time.monotonic() - began:.0f} s"


def _bytes(wheel: Path) -> str:
    """Size of a wheel file on this machine."""
    try:
        return f"{wheel.stat().st_size / 1e6:.1f} MB"
    except OSError:
        return "here"
