#!/usr/bin/env bash
# I submit: what will run, the file that starts it, and whether ten logs are a submission. Trains nothing.
#
#   examples/submit.sh LOGS [PRESET]     LOGS: a directory with result_0.txt .. result_9.txt, ours or anybody's
#
# FOURMARK names the program: ./run.sh of this repository, or `fourmark` where it is installed.
set -euo pipefail

logs=${1:?usage: examples/submit.sh LOGS [PRESET]}
preset=${2:-mi355x_1x8}
read -ra fourmark <<<"${FOURMARK:-$(dirname "${BASH_SOURCE[0]}")/../run.sh}"

# Memory per accelerator, batch arithmetic, learning rate, and what the rules say of them: before anything is started.
"${fourmark[@]}" plan --profile llama31_8b --preset "$preset" --set system.submitter=OurOrganisation

# The file that starts it. --out writes it; torchrun, docker, podman, apptainer and kubernetes are the other kinds.
"${fourmark[@]}" launch --emit slurm --profile llama31_8b --preset "$preset" | head -n 20

# Afterwards. Exit code 1: a violation; the message names the file, the line and what is allowed.
"${fourmark[@]}" check "$logs"
"${fourmark[@]}" score "$logs"
"${fourmark[@]}" rcp "$logs"
