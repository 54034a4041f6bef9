#!/usr/bin/env bash
# llama31_8b on 2 nodes, Slurm; written by: ./run.sh launch --emit slurm --nodes 2
# From the repository, on a file system that every node sees:
#     DATADIR=/tokens sbatch --account=.. --partition=.. --time=4:00:00 launch/slurm.sh
# When preempted, requeued or out of time, it continues its campaign. Only this file reads scheduler variables.
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

fail() { # arguments: a command, its answer, what to do
    printf 'launch: %s: %s; %s\n' "$@" >&2
    exit 3
}

export DATADIR=${DATADIR:-$PWD/data/c4}
export LOGDIR=${LOGDIR:-$PWD/runs/slurm_$SLURM_JOB_ID} # one directory per job, in which it finds its campaign again
export NNODES=$SLURM_JOB_NUM_NODES GPUS_PER_NODE=8 MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
names=$(scontrol show hostnames "$SLURM_JOB_NODELIST" 2>&1) || true
[[ $names =~ ^([A-Za-z0-9][A-Za-z0-9._-]*)($'\n'|$) ]] ||
    fail "scontrol show hostnames $SLURM_JOB_NODELIST" "answered '$names', not a name per line" "ask the operator"
MASTER_ADDR=${BASH_REMATCH[1]}
mkdir -p "$LOGDIR"
# AMD's v6.0 submission also sets (training_results_v6.0, llama31_8b, config_MI355X_1x8x1.sh; not tried by us):
# export HSA_NO_SCRATCH_RECLAIM=1 HIP_FORCE_DEV_KERNARG=1 GPU_MAX_HW_QUEUES=2 NCCL_MIN_P2P_NCHANNELS=32
# export TORCH_NCCL_HIGH_PRIORITY=1 TORCH_BLAS_PREFER_HIPBLASLT=1

on=(srun --mpi=none --cpu-bind=none --kill-on-bad-exit=0)

again=
trap 'again=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # little time is left: the run closes its log
"${on[@]}" --nodes=1 --ntasks=1 ./run.sh setup || # creates .venv, once
    fail "${on[*]} ./run.sh setup" "status $? (its output is above)" "fix the cause, and submit again"
for ((node = 0; node < NNODES; node++)); do echo "no answer" >"$LOGDIR/doctor_$node.json"; done
"${on[@]}" bash -c './run.sh doctor --quick --json --profile llama31_8b >"$LOGDIR/doctor_$SLURM_NODEID.json"' || true
"${on[@]}" --nodes=1 --ntasks=1 bash -c './run.sh doctor "$LOGDIR"/doctor_*.json' # ends the job when a node is bad
[[ ! $again ]] || fail "sbatch --time" "time was up before the training began" "give it 180 s more than a run takes"

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
