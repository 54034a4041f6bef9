#!/usr/bin/env bash
# llama31_8b on 1 node, podman; written by: ./run.sh launch --emit podman --nodes 1
# From the repository:
#     IMAGE=.. DATADIR=/where/the/tokens/are launch/podman.sh
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
if [[ -e /dev/kfd ]]; then
    gpus=(--device=/dev/kfd --device=/dev/dri --security-opt=seccomp=unconfined)
    gpus+=(--group-add=keep-groups)
elif compgen -G "/dev/nvidia[0-9]*" >/dev/null; then
    gpus=(--device=nvidia.com/gpu=all)
fi
in=(podman run --rm --init --network=host --ipc=host --stop-timeout=60)
# An engine may refuse these options; WITHOUT leaves them out. They allow dropping caches before runs, as the closed
# division requires, locking memory for RDMA, and stacks for OpenMP's threads.
for option in --privileged --ulimit=memlock=-1 --ulimit=stack=67108864; do
    [[ " ${WITHOUT-} " == *" $option "* ]] || in+=("$option")
done
in+=(--userns=keep-id --security-opt=label=disable --pids-limit=-1)
for name in DATADIR LOGDIR NEXP SEED DGXSYSTEM GPUS_PER_NODE GPU_MAX_HW_QUEUES \
    "${!NCCL_@}" "${!RCCL_@}" "${!GLOO_@}" "${!PYTORCH_@}" "${!TORCH_@}" \
    "${!CUDA_@}" "${!HSA_@}" "${!HIP_@}" "${!ROCR_@}"; do
    [[ $name == *_@(HOME|PATH|VERSION) ]] || in+=(--env="$name") # the image's own values are right
done
for directory in "$PWD" "$DATADIR" "$LOGDIR"; do
    in+=(--volume="$directory:$directory")
done
in+=("${gpus[@]}" --workdir="$PWD" "$IMAGE")

status=0
"${in[@]}" ./run.sh doctor --quick --profile llama31_8b || status=$?
if ((status == 125)); then # the engine itself failed
    echo "launch: podman run: no container started, see above; if the engine refuses privileges or rlimits:" >&2
    echo "    WITHOUT='--privileged --ulimit=memlock=-1 --ulimit=stack=67108864' $0 # that file explains them" >&2
    exit 3
fi
((status == 0)) || exit "$status"
exec "${in[@]}" bash -c '
    if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
    exec ./run.sh run --profile llama31_8b'
