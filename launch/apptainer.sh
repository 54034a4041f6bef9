#!/usr/bin/env bash
# llama31_8b on 1 node, apptainer; written by: ./run.sh launch --emit apptainer --nodes 1
# From the repository:
#     IMAGE=.. DATADIR=/where/the/tokens/are launch/apptainer.sh
# When started again with the same LOGDIR, it continues its campaign.
# shellcheck disable=SC2016 # text in single quotes is expanded in the container
set -euo pipefail
cd "${FOURMARK:-$PWD}"

export DATADIR=${DATADIR:-$PWD/data/c4}
export GPUS_PER_NODE=8 LOGDIR=${LOGDIR:-$PWD/runs/launched_$(date +%Y%m%d-%H%M%S)}
# AMD's v6.0 submission also sets (training_results_v6.0, llama31_8b, config_MI355X_1x8x1.sh; not tried by us):
# export HSA_NO_SCRATCH_RECLAIM=1 HIP_FORCE_DEV_KERNARG=1 GPU_MAX_HW_QUEUES=2 NCCL_MIN_P2P_NCHANNELS=32
# export TORCH_NCCL_HIGH_PRIORITY=1 TORCH_BLAS_PREFER_HIPBLASLT=1
for name in DATADIR LOGDIR; do [[ ${!name} == /* ]] || export "$name=$PWD/${!name}"; done
mkdir -p "$DATADIR" "$LOGDIR" # otherwise the container engine creates them as root
IMAGE=${IMAGE:?an image with torch for these GPUs}
gpus=() # this machine has none
if [[ -e /dev/kfd ]]; then gpus=(--rocm); elif compgen -G "/dev/nvidia[0-9]*" >/dev/null; then gpus=(--nv); fi
in=(apptainer exec "${gpus[@]}" --pwd "$PWD" --bind "$PWD,$DATADIR,$LOGDIR" "$IMAGE")

status=0
"${in[@]}" ./run.sh doctor --quick --profile llama31_8b || status=$?
((status == 0)) || exit "$status"
exec "${in[@]}" bash -c '
    if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
    exec ./run.sh run --profile llama31_8b'
