#!/usr/bin/env bash
# llama31_8b on 1 node, torchrun; made by: ./run.sh launch --emit torchrun --nodes 1
# From the repository:
#     DATADIR=/where/the/tokens/are launch/torchrun.sh
# Started again with the same LOGDIR, it continues its campaign. The harness starts torchrun.
set -euo pipefail
cd "${FOURMARK:-$PWD}"

export DATADIR=${DATADIR:-$PWD/data/c4}
export GPUS_PER_NODE=8 LOGDIR=${LOGDIR:-$PWD/runs/launched_$(date +%Y%m%d-%H%M%S)}
mkdir -p "$LOGDIR"

./run.sh doctor --quick --profile llama31_8b
if compgen -G "$LOGDIR/[0-9]*/campaign.json" >/dev/null; then exec ./run.sh resume; fi
exec ./run.sh run --profile llama31_8b
