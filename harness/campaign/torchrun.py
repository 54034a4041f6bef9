"""How a training is started: the command line, the environment and the threads of a rank."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.contract import environment
from harness.contract.config import Config
from harness.machine import numa
from harness.machine.accelerators import accelerators, nvidia_devices


def command(config: Config, attempt: Path) -> list[str]:
    """The command that trains the run described by `attempt`/config.json on this node."""
    parallel, launch = config.parallelism, config.launch
    if parallel.nodes == 1 and launch.master_port == 0:
        rendezvous = ["--standalone"]
    else:
        rendezvous = ["--node-rank", str(launch.node_rank), "--master-addr", launch.master_addr]
        rendezvous += ["--master-port", str(launch.master_port)]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(parallel.nodes), "--nproc-per-node", str(parallel.gpus_per_node)),
        *rendezvous,
        *(["--numa-binding", "node"] if _trains_on_gpus() and numa.can_bind() else []),
        *("--max-restarts", "0"),  # a second attempt needs a directory of its own
        *("-m", "submission", "--attempt", str(attempt)),
    ]


def _trains_on_gpus() -> bool:
    return accelerators() > 0 and not environment.gpus_are_hidden()


def threads(config: Config) -> int:
    """CPU threads per rank."""
    parallel = config.parallelism
    return parallel.threads_per_rank or max(1, environment.cores() // parallel.gpus_per_node)


def training_environment(config: Config) -> dict[str, str]:
    return environment.training_environment(
        threads=threads(config), on_cpu=accelerators() == 0, on_nvidia=nvidia_devices() > 0
    )
