"""The completion script knows commands, options, and the names of benchmark.yaml."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from harness import cli


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    import contextlib
    import io

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(["completion", "bash"]) == 0
    path = tmp_path_factory.mktemp("completion") / "completion.bash"
    path.write_text(said.getvalue())
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash completes, and bash is not here")
@pytest.mark.parametrize(
    ("words", "answers"),
    [
        ("comp", {"compare", "completion"}),
        ("check --rul", {"--rules", "--ruleset"}),
        ("plan --preset mi355x_1", {"mi355x_1x8"}),
        ("run --arm mxf", {"mxfp4"}),
        ("launch --emit slurm", {"slurm", "slurm-pyxis"}),
    ],
)
def test_bash_completes(script, words, answers):
    typed = ["run.sh", *words.split()]
    line = f"source {script}; COMP_WORDS=({' '.join(typed)}); COMP_CWORD={len(typed) - 1}; _shtab_run_sh; "
    done = subprocess.run(
        ["bash", "-c", line + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True
    )
    assert answers <= set(done.stdout.split()), done.stderr
    assert all(answer.startswith(typed[-1]) for answer in done.stdout.split())
