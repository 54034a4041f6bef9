#!/usr/bin/env bash
# ./run.sh [command] [options]: runs the command line in .venv. No command: the main job. .venv is made on first use, and
# only as far as the command needs it: torch comes with the first command that trains. Help needs Python alone.
# The caller's directory stays the working directory, so PATH arguments mean what they say; relative paths inside
# benchmark.yaml belong to the repository (harness/base/paths.py).
set -euo pipefail

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
venv=$root/.venv
pins=$root/requirements.txt

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 3
}

# The layer of the environment that a command needs (harness/setup/requirements.py).
layer_of() {
    case " $* " in *" --help "* | *" -h "*) echo light && return ;; esac
    case ${1:-main} in
        check | score | rcp | compare | results | project | plan | init | launch | status | serve | diagnose | upload | completion) echo light ;;
        package | test) echo "$1" ;;
        study) case ${2-} in evidence | diagnose) echo light ;; *) echo train ;; esac ;;
        *) echo train ;;
    esac
}

# A layer is complete when a copy of the pins exists, which is written last. Wider layers contain the light one.
ready() {
    local stamp
    [[ -x $venv/bin/python ]] || return 1
    for stamp in "$venv/.$1" "$venv/.test" ${2:+"$venv/.$2"}; do
        [[ -f $stamp && $(<"$stamp") == "$(<"$pins")" ]] && return 0
    done
    return 1
}

# The first Python that is new enough, not the one of an activated .venv of ours.
find_python() {
    local name path found seen=none
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        path=$(type -P "$name") || continue
        [[ $path == "$venv"/* ]] && continue
        found=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        [[ $seen == none ]] && seen="$path is $found"
        if [[ $found == 3.* && ${found#3.} -ge 10 ]]; then
            python=$path
            return
        fi
    done
    fail "found no Python >= 3.10 ($seen); install one and put it on PATH as python3"
}

# An environment without a finished layer is created again; packages are added to a finished one.
make_venv() {
    local option=()
    if compgen -G "$venv/.[clpt]*" >/dev/null && [[ -x $venv/bin/python ]]; then return; fi # .complete: of earlier versions
    "$python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("torch") is None)' 2>/dev/null &&
        option=(--system-site-packages)
    say "virtual environment in $venv ($("$python" --version))"
    "$python" -m venv --clear ${option[@]+"${option[@]}"} "$venv" >&2 ||
        fail "$python cannot create a virtual environment; on Debian and Ubuntu: apt install python3-venv"
}

# In a shared checkout the environment of another user is used and never changed.
may_write() {
    local place=$venv
    [[ -e $venv ]] || place=$root
    [[ -w $place ]] || fail "$place belongs to $(stat -c %U "$place" 2>/dev/null || echo another user), and lacks \
what this command needs; ask them to run './run.sh setup', or clone the repository for yourself"
    [[ ! -e $venv/bin/python || -x $venv/bin/python ]] ||
        fail "you cannot execute $venv/bin/python; clone the repository for yourself"
}

set_up() {
    find_python
    make_venv
    rm -f "$venv/.$1"
    PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" "$venv/bin/python" -m harness.setup "$1" "$python" || exit
    cp "$pins" "$venv/.new"
    mv "$venv/.new" "$venv/.$1"
    say "done"
}

case ${1:-} in
    -h | --help | help) # the list of commands
        find_python
        PYTHONSAFEPATH=1 PYTHONPATH=$root exec "$python" -m harness --help
        ;;
esac
layer=$(layer_of "$@")
# qualify needs no .venv on a node, or in a container, whose Python has the packages that it imports.
if [[ ${1:-} == qualify ]] && ! ready train; then
    find_python
    if "$python" -c 'import torch, triton, numpy, yaml, megatron.core, mlperf_logging' 2>/dev/null; then
        say "using $python, which has all packages that qualify needs"
        export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -m harness "$@"
    fi
fi
wider=
[[ $layer == light ]] && wider=train
if ! ready "$layer" "$wider"; then
    may_write
    (
        # concurrent first uses wait for one another; the kernel drops the lock of a set-up that was killed
        if command -v flock >/dev/null && ! flock -n 9; then
            say "waiting for another set-up of $venv"
            flock 9
        fi
        ready "$layer" "$wider" || set_up "$layer"
    ) 9<"$root/run.sh"
fi
[[ ${1:-} == setup ]] && exit 0 # that was all

# for a contract test, beside the environment: Megatron fails on Transformer Engine's package without its library
if [[ ${1:-} == test && ! -d $venv/transformer_engine_sources ]]; then
    "$venv/bin/python" -m pip --disable-pip-version-check -qq install --target "$venv/transformer_engine_sources" \
        transformer_engine==2.20.2 pydantic==2.13.0 >&2 ||
        say "Transformer Engine's Python sources cannot be installed; tests/submission/te will be skipped"
fi

# Safe path: a yaml.py in the caller's directory must not shadow ours (Python 3.11 and later).
export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$venv/bin/python" -m harness "$@"
