#!/usr/bin/env bash
# I compare systems: published submissions against one another, and a machine that has no result yet. Works offline.
#
#   examples/compare.sh [PAGE.html]
#
# FOURMARK names the program: ./run.sh of this repository, or `fourmark` where it is installed.
set -euo pipefail

page=${1:-comparison.html}
read -ra fourmark <<<"${FOURMARK:-$(dirname "${BASH_SOURCE[0]}")/../run.sh}"

# Every published llama31_8b system: a name from this list stands wherever --public takes one.
"${fourmark[@]}" results list

# A against the baseline B: is it faster because a step takes less time, or because it needs fewer samples?
"${fourmark[@]}" compare --public v6.0/AMD/MI355X v5.1/AMD/MI355X --html "$page"

# A number and a kind of accelerator, with the error of the same prediction for systems that are published.
"${fourmark[@]}" project 16xB200
