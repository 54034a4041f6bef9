#!/usr/bin/env bash
# llama31_8b on 1 node, podman; made by: ./run.sh launch --emit podman --nodes 1
# From the repository:
#     IMAGE=.. DATADIR=/where/the/tokens/are launch/podman.sh
# Started again with the same LOGDIR, it continues its campaign.
# shellcheck disable=SC2016 # text in single quotes is expanded in the container
set -euo pipefail
cd "${FOURMARK:-$PWD}"

export DATADIR=${DATADIR:-$PWD/data/c4}
export GPUS_PER_NODE=8 LOGDIR=${LOGDIR:-$PWD/runs/launched_$(date +%Y%m%d-%H%M%S)}
mkdir -p "$LOGDIR"
IMAGE=${IMAGE:?an image with torch for these GPUs}
if [[ -e /dev/kfd ]]; then
    gpus=(--device=/dev/kfd --device=/dev/dri --security-opt=seccomp=unconfined)
    gpus+=(--group-add=keep-groups)
else
    gpus=(--device=nvidia.com/gpu=all)
fi
in=(podman run --rm --init --network=host --ipc=host --ulimit=memlock=-1 --ulimit=stack=67108864 --stop-timeout=60)
in+=(--privileged) # runs start with cold caches, which a container may only then drop; the open division needs none
in+=(--userns=keep-id --security-opt=label=disable --pids-limit=-1)
for name in DATADIR LOGDIR NEXP SEED DGXSYSTEM GPUS_PER_NODE; do
    in+=(--env="$name")
done
for directory in "$PWD" "$DATADIR" "$LOGDIR"; do
    in+=(--volume="$directory:$directory")
done
in+=("${gpus[@]}" --workdir="$PWD" "$IMAGE")

"${in[@]}" ./run.sh doctor --quick --profile llama31_8b
exec "${in[@]}" bash -c '
    if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
    exec ./run.sh run --profile llama31_8b'
