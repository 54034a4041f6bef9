"""A real Slurm of two nodes on this machine, in a directory of its own: Slurm's and munge's daemons, nothing installed.

A node is a slurmd in namespaces of its own (processes, mounts, host name): it can be killed like a machine that loses
its power, and given what only a sick node has. The machine's own Slurm, munge and /etc/hosts are not touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from harness.base.paths import ROOT
from harness.machine.child_process import die_with_this_process

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "unshare", "mount")
NODES = ("n1", "n2")
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"
_PORT = 17000 + os.getpid() % 900 * 10  # of the controller; the nodes take the next two
_READY_S = 30.0

# cred_expire: a requeued job waits for as long as credentials live, two minutes by default
_CONF = """\
ClusterName=fourmark
SlurmctldHost=localhost
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool-%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd-%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=8
KillWait=30
ReturnToService=2
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
JobRequeue=1
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
NodeName=DEFAULT CPUs=2 Sockets=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000 Gres=gpu:8
NodeName=n1 NodeAddr=127.0.0.1 NodeHostname=localhost Port={port_1}
NodeName=n2 NodeAddr=127.0.0.1 NodeHostname=localhost Port={port_2}
PartitionName=low Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""
# devices that Slurm counts; no_gpu_env: it does not choose among the GPUs that this machine may have
_GRES = "NodeName=n1,n2 Name=gpu File={home}/gpu[0-7] Flags=no_gpu_env\n"
_HOSTS = "127.0.0.1 localhost n1 n2\n"
# the first process of the node's namespace stays, and reaps what slurmd leaves
_NODE = """
mount --bind {home}/hosts /etc/hosts
hostname {node}
{sickness}
slurmd -D -N {node} -f {home}/slurm.conf &
wait
"""
Answer = TypeVar("Answer")


def why_not() -> str:
    """What this machine lacks to start a Slurm; empty where it lacks nothing."""
    absent = [name for name in PROGRAMS if _find(name) is None]
    if absent:
        return f"no {', '.join(absent)} here (Debian and Ubuntu: apt-get install slurm-wlm munge)"
    if os.geteuid() != 0:
        return "Slurm's daemons, as they are set up here, need root"
    words = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "hostname", "n1"]
    tried = subprocess.run(words, capture_output=True, text=True)
    return (
        f"no namespaces for its nodes: {' '.join(words)}: {tried.stderr.strip()}" if tried.returncode else ""
    )


def wait_for(
    look: Callable[[], Answer], *, seconds: float, what: str, told: Callable[[], str] = lambda: ""
) -> Answer:
    """What `look` answers as soon as it is true.

    Raises:
        AssertionError: it has not been for so long.
    """
    until = time.monotonic() + seconds
    while not (answer := look()):
        assert time.monotonic() < until, f"not within {seconds:.0f} s: {what}\n{told()}"
        time.sleep(0.2)
    return answer


class Cluster:
    """Two nodes, n1 and n2, two partitions, low and high, and their jobs."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {**os.environ, "SLURM_CONF": str(home / "slurm.conf")}
        self.environment |= {"PATH": f"{os.environ['PATH']}:{_SBIN}", "CUDA_VISIBLE_DEVICES": ""}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.home / name).mkdir()
        for number in range(8):
            os.mknod(self.home / f"gpu{number}", 0o600 | stat.S_IFCHR, os.makedev(1, 3))  # as /dev/null
        ports = {"port": _PORT, "port_1": _PORT + 1, "port_2": _PORT + 2}
        for name, text in (("slurm.conf", _CONF), ("gres.conf", _GRES), ("hosts", _HOSTS)):
            (self.home / name).write_text(text.format(home=self.home, **ports), encoding="utf-8")
        key = self.home / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "log-file": "log",
            "seed-file": "seed",
        }
        # --force: what munged refuses otherwise is that root runs it and that everybody may write into /tmp
        words = [f"--{option}={self.home}/munge.{suffix}" for option, suffix in files.items()]
        self._start("munged", ["munged", "--foreground", "--force", *words])
        wait_for(
            (self.home / "munge.socket").exists, seconds=_READY_S, what="munged's socket", told=self.logs
        )
        self._start("slurmctld", ["slurmctld", "-D", "-i", "-f", str(self.home / "slurm.conf")])
        for node in NODES:
            self.start_node(node)
        self.wait_for_nodes()

    def start_node(self, node: str, *, sickness: str = ":") -> None:
        """Switch a node on.

        Args:
            sickness: shell commands in its namespaces, before its slurmd.
        """
        script = _NODE.format(home=self.home, node=node, sickness=sickness)
        spaces = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        self._start(node, [*spaces, "bash", "-euc", script])

    def wait_for_nodes(self) -> None:
        """Both take jobs."""

        def idle() -> bool:
            return self.ask("sinfo", "--Node", "--noheader", "--format=%N %T", "--partition=low").split() == [
                "n1",
                "idle",
                "n2",
                "idle",
            ]

        wait_for(idle, seconds=_READY_S, what="both nodes idle", told=self.logs)

    def kill_node(self, node: str) -> None:
        """Its slurmd, its steps and all that they started end at once, like a node that loses its power."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def stop(self) -> None:
        subprocess.run([_find("scancel") or "", "--user=root"], env=self.environment, capture_output=True)
        for node in NODES:
            if node in self._daemons:
                self.kill_node(node)
        for daemon in reversed(self._daemons.values()):  # the controller first: munged answers it to the end
            daemon.terminate()
            daemon.wait(20)

    def ask(self, *words: str) -> str:
        """What a program of Slurm answers on stdout."""
        done = subprocess.run(words, cwd=self.home, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0 or words[0] == "sinfo", f"{words}: {done.stderr}\n{self.logs()}"
        return done.stdout

    def submit(self, *words: str, **variables: str) -> Job:
        """Hand a job in, from the repository."""
        command = ["sbatch", "--parsable", f"--output={self.home}/job_%j.txt", *words]
        done = subprocess.run(
            command, cwd=ROOT, env={**self.environment, **variables}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip())

    def logs(self) -> str:
        """The last words of every daemon."""
        paths = sorted(self.home.glob("*.log"))
        return "\n".join(f"{path.name}:\n{_end(path, 1500)}" for path in paths)

    def _start(self, name: str, words: list[str]) -> None:
        with (self.home / f"{name}.out.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                words,
                cwd=self.home,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_this_process(),
            )


class Job:
    """A job of this cluster, by its number."""

    def __init__(self, cluster: Cluster, number: str) -> None:
        self._cluster, self.number = cluster, number

    def field(self, name: str) -> str:
        """What scontrol says of the job under this name, for example JobState."""
        words = self._cluster.ask("scontrol", "show", "job", self.number).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def seconds(self) -> int:
        """For how long this start of the job has run, less than a day."""
        hours, minutes, seconds = self.field("RunTime").split(":")
        return (int(hours) * 60 + int(minutes)) * 60 + int(seconds)

    @property
    def output(self) -> str:
        """All that the job said, of every start."""
        path = self._cluster.home / f"job_{self.number}.txt"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def wait_for_end(self, *, seconds: float) -> str:
        """The state in which the job ended."""
        unfinished = ("PENDING", "RUNNING", "COMPLETING", "REQUEUED", "CONFIGURING")
        wait_for(lambda: self.state not in unfinished, seconds=seconds, what="the job's end", told=self.tell)
        return self.state

    def cancel(self) -> None:
        """As its owner does: it ends for good, if it has not ended."""
        self._cluster.ask("scancel", self.number)
        assert self.wait_for_end(seconds=60) == "CANCELLED", self.tell()

    def tell(self) -> str:
        """For a failure's message."""
        return f"job {self.number} said:\n{self.output[-6000:]}\n{self._cluster.logs()}"


@contextmanager
def slurm(home: Path) -> Iterator[Cluster]:
    """A cluster that is there inside, and of which no process is left afterwards."""
    cluster = Cluster(home)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:{_SBIN}")


def _end(path: Path, characters: int) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-characters:]
