"""A docker engine of its own in a directory, and an image made from this machine: no registry is asked.

The machine's own docker, if there is one, is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.base.paths import ROOT
from harness.machine.child_process import die_with_this_process
from tests.launchers.slurm_cluster import wait_for

PROGRAMS = ("dockerd", "docker", "containerd", "runc", "tar", "ldd", "unshare")
IMAGE = "fourmark-slice:1"
_PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin:/sbin"
_READY_S = 40.0
# what run.sh, the launch file's inner line and torchrun call in the container
_TOOLS = (
    "bash",
    "sh",
    "env",
    "cat",
    "cp",
    "dirname",
    "flock",
    "grep",
    "id",
    "ls",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sed",
)
_TOOLS += ("sleep", "true", "uname", "ldconfig", "lscpu")
_LEFT_OUT = ("*.a", "__pycache__", "*/python3*/test", "*/triton/backends/nvidia/bin")


def why_not() -> str:
    """What this machine lacks to start an engine; empty where it lacks nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"no {', '.join(absent)} here (Debian and Ubuntu: apt-get install docker.io)"
    return "" if os.geteuid() == 0 else "dockerd, as it is set up here, needs root"


class Engine:
    """dockerd on a socket of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "PATH": _PATH, "DOCKER_HOST": f"unix://{home}/docker.sock"}
        self.environment |= {
            "DOCKER_CONFIG": str(home / "config")
        }  # no credentials, no context of the user's
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start the engine.

        Returns:
            Why it does not start here, empty when it runs.
        """
        places = {"data-root": "data", "exec-root": "exec", "pidfile": "dockerd.pid"}
        words = [f"--{option}={self.home}/{name}" for option, name in places.items()]
        words += [f"--host={self.environment['DOCKER_HOST']}", "--iptables=false", "--bridge=none"]
        with (self.home / "dockerd.log").open("wb") as log:
            self._daemon = subprocess.Popen(
                # its mounts end with it
                ["unshare", "--mount", "dockerd", *words],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_this_process(),
            )
        daemon = self._daemon

        def settled() -> bool:
            return daemon.poll() is not None or self.docker("version").returncode == 0

        wait_for(settled, seconds=_READY_S, what="dockerd answers", told=self.log)
        return self.log() if daemon.poll() is not None else ""

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", *words], env=self.environment, capture_output=True, text=True)

    def make_image(self) -> None:
        """Import this machine's Python, its packages and a few programs."""
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        places = sorted(place.removeprefix("/") for place in _slice())
        pack = subprocess.Popen(["tar", "-C", "/", *left_out, "-cf", "-", *places], stdout=subprocess.PIPE)
        words = ["docker", "import", "--change", f"ENV PATH={sys.base_prefix}/bin:/usr/bin:/bin", "-", IMAGE]
        made = subprocess.run(words, stdin=pack.stdout, env=self.environment, capture_output=True, text=True)
        assert made.returncode == 0 and pack.wait() == 0, made.stderr

    def log(self) -> str:
        return (self.home / "dockerd.log").read_text(encoding="utf-8", errors="replace")[-3000:]

    def stop(self) -> None:
        names = self.docker("ps", "--quiet").stdout.split()
        if names:
            self.docker("kill", *names)
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait(30)


def _slice() -> set[str]:
    """Files and directories of this machine that the image holds: Python, its packages, programs, their libraries."""
    programs = [path for name in _TOOLS if (path := shutil.which(name, path=_PATH))]
    python = os.path.realpath(sys.executable)
    environment = Path(sys.prefix).resolve()
    trees = {sysconfig.get_path("stdlib"), "/etc/passwd", "/etc/group", "/etc/ld.so.cache"}
    if not environment.is_relative_to(ROOT):  # inside, it is mounted with the repository
        trees.add(str(environment))
    bin_directory = Path(sys.base_prefix) / "bin"
    names = {str(path) for path in bin_directory.glob("python3*") if "config" not in path.name}
    modules = Path(sysconfig.get_path("stdlib")).glob("lib-dynload/*.so")
    packages = environment.glob("lib/python*/site-packages/**/*.so*")
    seen = _libraries([*programs, python, *map(str, modules), *map(str, packages)])
    system = {path for path in seen if not any(path.startswith(f"{tree}/") for tree in (str(ROOT), *trees))}
    links = {f"/{name}" for name in ("bin", "sbin", "lib", "lib64") if Path(f"/{name}").is_symlink()}
    found = {path for path in {*programs, python, *names, *trees, *system} if os.path.lexists(path)}
    # /lib is a link: what lies in it is packed where it really is
    return links | {
        os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path)) for path in found
    }


def _libraries(files: list[str]) -> set[str]:
    """Every library that these need, under the names that they ask for and under its own."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    words = {word for line in said.splitlines() for word in line.split() if word.startswith("/")}
    names = {word for word in words if not word.endswith(":") and os.path.isfile(word)}
    return names | {os.path.realpath(name) for name in names}


@contextmanager
def engine(home: Path) -> Iterator[Engine]:
    """An engine that runs inside, and of which nothing is left afterwards."""
    made = Engine(home)
    try:
        yield made
    finally:
        made.stop()
