#!/usr/bin/env bash
# ./run.sh [command] [options]: makes .venv on first use, then runs the command line in it. No command: the main job.
# The caller's directory stays the working directory, so PATH arguments mean what they say; relative paths inside
# benchmark.yaml belong to the repository (harness/base/paths.py).
set -euo pipefail

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
venv=$root/.venv
pins=$root/requirements.txt
stamp=$venv/.complete # a copy of the pins, written last: without it the environment is unfinished

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 3
}

ready() { [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$(<"$pins")" ]]; }

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

pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq install "$@" >&2; }

make_venv() { # make_venv [options of python -m venv]
    "$python" -m venv --clear "$@" "$venv" >&2 ||
        fail "$python cannot make a virtual environment (Debian and Ubuntu: apt install python3-venv)"
}

# Which torch: the one that is there already; else by hardware. PyPI's Linux build carries CUDA, gigabytes of it, so a
# machine without GPU asks for the CPU build by its local version: an index or wheel directory that has it (a mirror)
# answers at once, PyPI says no at once, and then PyTorch's own CPU index is asked.
install_torch() {
    local version=$1
    if compgen -G '/dev/nvidia[0-9]*' >/dev/null; then
        say "torch $version with CUDA (several GB)"
        pip "torch==$version"
    elif [[ -e /dev/kfd ]]; then
        say "torch $version with ROCm 7.2 (several GB)"
        pip "torch==$version" --index-url https://download.pytorch.org/whl/rocm7.2
    elif [[ $(uname -s) == Darwin ]]; then
        say "torch $version"
        pip "torch==$version"
    else
        say "torch $version for CPU (no NVIDIA or AMD GPU here; about 200 MB)"
        pip "torch==$version+cpu" 2>/dev/null ||
            pip "torch==$version+cpu" --index-url https://download.pytorch.org/whl/cpu
    fi
}

set_up() {
    local python own
    find_python
    if own=$("$python" -c 'import torch; print(torch.__version__)' 2>/dev/null); then
        say "$python brings torch $own: kept"
        [[ -f $stamp ]] || make_venv --system-site-packages
        # a container may keep its torch in a virtual environment, which --system-site-packages does not reach
        "$venv/bin/python" -c 'import torch' 2>/dev/null ||
            "$python" -c 'import os, torch; print(os.path.dirname(os.path.dirname(torch.__file__)))' \
                >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/outer.pth"
    else
        [[ -f $stamp ]] || { say "virtual environment in $venv ($("$python" --version))" && make_venv; }
        own=
    fi
    rm -f "$stamp" # from here on an interruption leaves an environment that is made anew
    if [[ -z $own ]]; then
        local version
        version=$(sed -n 's/^torch==\([^ ;]*\).*/\1/p' "$pins")
        "$venv/bin/python" -c "import torch; assert torch.__version__.split('+')[0] == '$version'" 2>/dev/null ||
            install_torch "$version" || fail "installing torch failed; run the same command again to retry"
        own=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))')
    fi
    say "the packages of requirements.txt"
    grep -v '^torch==' "$pins" >"$venv/pins.txt"
    if "$venv/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(not any("triton" in r for r in m.requires("torch")))'; then
        sed -i.all '/^triton==/d' "$venv/pins.txt" # torch brings the Triton it was built for
    fi
    echo "torch==$own" >"$venv/torch.txt" # a constraint: no dependency may replace it
    pip -r "$venv/pins.txt" -c "$venv/torch.txt" || fail "installing failed; run the same command again to retry"
    cp "$pins" "$stamp.new"
    mv "$stamp.new" "$stamp"
    say "done"
}

# qualify needs no environment of ours on a node, or in a container, whose Python brings what it imports.
if [[ ${1:-} == qualify ]] && ! ready; then
    find_python
    if "$python" -c 'import torch, triton, numpy, yaml, megatron.core, mlperf_logging' 2>/dev/null; then
        say "$python brings all that qualify needs: no .venv is made"
        export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        exec "$python" -m harness "$@"
    fi
fi

if ! ready; then
    (
        # concurrent first uses wait for one another; the kernel drops the lock of a set-up that was killed
        if command -v flock >/dev/null && ! flock -n 9; then
            say "waiting for another set-up of $venv"
            flock 9
        fi
        ready || set_up
    ) 9<"$root/run.sh"
fi

# for a contract test, beside the environment: Megatron fails on Transformer Engine's package without its library
if [[ ${1:-} == test && ! -d $venv/transformer_engine_sources ]]; then
    pip --target "$venv/transformer_engine_sources" transformer_engine==2.20.2 pydantic==2.13.0 ||
        say "without Transformer Engine's Python sources: tests/submission/te will be skipped"
fi

# Safe path: a yaml.py in the caller's directory must not shadow ours (Python 3.11 and later).
export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$venv/bin/python" -m harness "$@"
