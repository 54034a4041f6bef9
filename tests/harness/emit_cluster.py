"""A cluster of shell scripts: srun, scontrol, scancel, containers and run.sh, which note what they are asked."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.busy import ENDLESS_S

_RUN = """#!/usr/bin/env bash
[[ $1 == setup ]] && exit 0
[[ $1 == doctor ]] && { echo '{}'; echo "$*" >>"$CALLS"; }
[[ $HANG == doctor && $1 == doctor ]] && { touch "$CALLS.on"; sleep 1; }
[[ $1 == doctor ]] && exit 0
echo "NODE_RANK=${NODE_RANK-} NNODES=${NNODES-} MASTER_ADDR=${MASTER_ADDR-} MASTER_PORT=${MASTER_PORT-} $*" >>"$CALLS"
[[ $HANG != run || $1 != run ]] && exit 0
trap 'echo terminated >>"$CALLS"; exit 130' TERM
touch "$CALLS.on"
sleep 20 &
wait
exit 0
"""
_SRUN = """#!/usr/bin/env bash
[[ $1 == --help ]] && { echo "$SRUN_HELP"; exit; }
count=$NODES
printf '%s\\n' "$@" >"$CALLS.container"
while [[ $1 == --* ]]; do [[ $1 == --nodes=* ]] && count=${1#*=}; shift; done
for ((node = 0; node < count; node++)); do SLURM_NODEID=$node "$@" & echo $! >>"$CALLS.tasks"; done
status=0
for ((node = 0; node < count; node++)); do wait -n || status=$?; done
exit "$status"
"""
_CONTAINER = """#!/usr/bin/env bash
printf '%s\\n' "${0##*/}" "$@" >"$CALLS.container"
[[ $REFUSED ]] && { echo "docker: Error response from daemon: error setting rlimit" >&2; exit 125; }
while [[ $1 != an-image ]]; do shift; done
shift
exec "$@"
"""
_SCONTROL = """#!/usr/bin/env bash
[[ $1 == show ]] && { printf "$HOSTNAMES"; exit; }
echo "scontrol $*" >>"$CALLS"
"""
_SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >>"$CALLS"
kill -TERM $(<"$CALLS.tasks") 2>/dev/null
true
"""


def run_file(
    home: Path,
    text: str,
    *,
    nodes: int,
    out_of_time: str = "",
    logs: Path | None = None,
    srun_help: str = "--container-image=IMAGE [pyxis]",
    hostnames: str = "node-a\\nnode-b\\n",
    refused: bool = False,
    **more: str,
) -> tuple[list[str], int]:
    """Run a launch file among these scripts.

    Args:
        out_of_time: the command of run.sh at which the job is told that its time ends.
        srun_help: what `srun --help` answers.
        hostnames: what `scontrol show hostnames` answers.
        refused: the container engine starts nothing.
        more: of the environment.

    Returns:
        What was asked of them, in order, and the exit status; `home`/stderr is what the file said, and
        `home`/calls.container the words of the last container or step, a line each.
    """
    tools = home / "tools"
    tools.mkdir(exist_ok=True)
    programs = {"srun": _SRUN, "scontrol": _SCONTROL, "scancel": _SCANCEL}
    programs |= dict.fromkeys(("docker", "podman", "apptainer"), _CONTAINER)
    for path, body in [(home / "run.sh", _RUN), *((tools / name, body) for name, body in programs.items())]:
        path.write_text(body, encoding="utf-8")
        path.chmod(0o755)
    (home / "file.sh").write_text(text, encoding="utf-8")
    calls = home / "calls"
    for stale in home.glob("calls*"):
        stale.unlink()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    variables = {
        "CALLS": str(calls),
        "NODES": str(nodes),
        "SRUN_HELP": srun_help,
        "HOSTNAMES": hostnames,
        "REFUSED": "1" if refused else "",
        "HANG": out_of_time,
        "IMAGE": "an-image",
    }
    slurm = {"SLURM_SUBMIT_DIR": str(home), "SLURM_JOB_ID": "42", "SLURM_JOB_NUM_NODES": str(nodes)}
    slurm["SLURM_JOB_NODELIST"] = "node-[a-b]"
    path = f"{tools}:{os.environ['PATH']}"
    env = {**inherited, **variables, **slurm, "PATH": path, **more, **({"LOGDIR": str(logs)} if logs else {})}
    with (home / "stderr").open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(["bash", str(home / "file.sh")], cwd=home, env=env, stderr=stderr)
    if out_of_time:
        until = time.monotonic() + 20
        while not (home / "calls.on").exists() and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
    status = process.wait(timeout=ENDLESS_S)
    return calls.read_text(encoding="utf-8").splitlines() if calls.exists() else [], status
