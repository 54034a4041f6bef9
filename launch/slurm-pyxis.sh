#!/usr/bin/env bash
# llama31_8b on 2 nodes, Slurm with pyxis; made by: ./run.sh launch --emit slurm-pyxis --nodes 2
# From the repository, on a file system that every node sees:
#     IMAGE=docker://.. DATADIR=/tokens sbatch --account=.. --partition=.. --time=4:00:00 launch/slurm-pyxis.sh
# Preempted, requeued or out of time, it continues its campaign. Scheduler variables end in this file.
#SBATCH --job-name=fourmark
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=fourmark_%j.txt
#SBATCH --signal=B:USR1@180
# shellcheck disable=SC2016 # text in single quotes is expanded on each node
set -euo pipefail
cd "${FOURMARK:-$SLURM_SUBMIT_DIR}"

export DATADIR=${DATADIR:-$PWD/data/c4}
export LOGDIR=${LOGDIR:-$PWD/runs/slurm_$SLURM_JOB_ID} # of this job alone: it finds its campaign again
export NNODES=$SLURM_JOB_NUM_NODES GPUS_PER_NODE=8 MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
mkdir -p "$LOGDIR"

on=(srun --mpi=none --cpu-bind=none --kill-on-bad-exit=0)
on+=(--container-image="${IMAGE:?an image with torch for these GPUs}" --container-name="fourmark_$SLURM_JOB_ID")
on+=(--container-mounts="$PWD:$PWD,$DATADIR:$DATADIR,$LOGDIR:$LOGDIR" --container-workdir="$PWD")
on+=(--no-container-mount-home --container-writable)

"${on[@]}" --nodes=1 --ntasks=1 ./run.sh setup # makes .venv, once
"${on[@]}" bash -c './run.sh doctor --quick --json --profile llama31_8b >"$LOGDIR/doctor_$SLURM_NODEID.json"' || true
"${on[@]}" --nodes=1 --ntasks=1 bash -c './run.sh doctor "$LOGDIR"/doctor_*.json' # ends the job when a node is bad

again=
trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # nearly out of time: the run closes its log
"${on[@]}" --wait=120 bash -c 'export NODE_RANK=$SLURM_NODEID
    if ((NODE_RANK > 0)); then exec ./run.sh follow; fi
    if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
    exec ./run.sh run --profile llama31_8b' &
status=0
wait "$!" || status=$?
if [[ $again ]]; then
    wait "$!" || true
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
