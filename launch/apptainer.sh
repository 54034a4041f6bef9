#!/usr/bin/env bash
# llama31_8b on 1 node, apptainer; made by: ./run.sh launch --emit apptainer --nodes 1
# From the repository:
#     IMAGE=.. DATADIR=/where/the/tokens/are launch/apptainer.sh
# Started again with the same LOGDIR, it continues its campaign.
# shellcheck disable=SC2016 # text in single quotes is expanded in the container
set -euo pipefail
cd "${FOURMARK:-$PWD}"

export DATADIR=${DATADIR:-$PWD/data/c4}
export GPUS_PER_NODE=8 LOGDIR=${LOGDIR:-$PWD/runs/launched_$(date +%Y%m%d-%H%M%S)}
for name in DATADIR LOGDIR; do [[ ${!name} == /* ]] || export "$name=$PWD/${!name}"; done
mkdir -p "$DATADIR" "$LOGDIR" # before an engine makes them, as root
IMAGE=${IMAGE:?an image with torch for these GPUs}
if [[ -e /dev/kfd ]]; then gpus=(--rocm); else gpus=(--nv); fi
in=(apptainer exec "${gpus[@]}" --pwd "$PWD" --bind "$PWD,$DATADIR,$LOGDIR" "$IMAGE")

status=0
"${in[@]}" ./run.sh doctor --quick --profile llama31_8b || status=$?
((status == 0)) || exit "$status"
exec "${in[@]}" bash -c '
    if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
    exec ./run.sh run --profile llama31_8b'
