"""A name that does not exist is answered with the one that was meant, and with those that exist."""

from __future__ import annotations

import pytest

from harness import cli
from harness.base.names import nearest, unknown_name

# The command line, and what standard error says of it.
MISTAKES = {
    "command": (["scor"], "no command 'scor' (did you mean score?); commands: main, init, plan, "),
    "option": (["run", "--profil", "x", "--prset", "y"], "no option '--prset' (did you mean --preset?); options: "),
    "option of an action": (
        ["results", "index", "tree", "--oot=x"],
        "no option '--oot' (did you mean --out?); options: ",
    ),
    "option before a required one": (
        ["launch", "--emti", "slurm"],
        "no option '--emti' (did you mean --emit?); options: ",
    ),
    "action": (["data", "fetsh"], "no action 'fetsh' (did you mean fetch?); actions: fetch, build, verify"),
    "action with options": (["package", "verfy"], "no action 'verfy' (did you mean verify?); actions: build, verify"),
    "launch file": (["launch", "--emit", "slrum"], "--emit: no kind 'slrum' (did you mean slurm?); kinds: "),
    "value": (
        ["project", "--precision", "mxpf4"],
        "--precision: no value 'mxpf4' (did you mean mxfp4?); values: ",
    ),
    "profile": (
        ["plan", "--profile", "llama"],
        "no profile 'llama' (did you mean llama31_8b?); profiles: proxy, study, llama31_8b",
    ),
    "preset": (["plan", "--preset", "mi355x_1x9"], "no preset 'mi355x_1x9' (did you mean mi355x_1x8?); presets: "),
    "key": (
        ["plan", "--set", "batch.micro_batchsize=1"],
        "batch.micro_batchsize: no key 'micro_batchsize' (did you mean micro_batch_size?); keys: ",
    ),
    "arm": (["plan", "--set", "runs.arms=[mxpf4]"], "runs.arms: no arm 'mxpf4' (did you mean mxfp4?); arms: "),
    "recipe": (
        ["plan", "--set", "arms.mxfp4.recipe=fp8-hybird"],
        "arms.mxfp4.recipe: no recipe 'fp8-hybird' (did you mean fp8-hybrid?); recipes: ",
    ),
    "format": (
        ["plan", "--set", "recipes.fp8-hybrid.fprop.format=fp9"],
        "recipes.fp8-hybrid.fprop.format: found 'fp9' (did you mean fp8?); allowed: ",
    ),
    "arm to count": (["bench", "--count", "--arm", "fp9"], "--arm: no arm 'fp9' (did you mean fp8?); arms: "),
    "grid": (
        ["study", "--grid", "papr", "--list"],
        "--grid: no grid 'papr' (did you mean paper?); grids: paper, factorial, presets, a YAML file of recipes",
    ),
    "cell": (["study", "--list", "--cells", "fp9"], "--cells: no cell 'fp9' (did you mean fp8?); cells: "),
    "study": (["study", "--resume", "20260101-000000"], "--resume: no study '20260101-000000'; studies in "),
    "ruleset": (["check", ".", "--ruleset", "prox"], "--ruleset: no ruleset 'prox' (did you mean proxy?); rulesets: "),
    "public system": (
        ["compare", "--public", "XE9785L_8xMI335X"],
        "--public: no system 'XE9785L_8xMI335X' (did you mean XE9785L_8xMI355X?); ./run.sh results list ",
    ),
    "accelerator": (["project", "8xMI365X"], "no accelerator 'MI365X' (did you mean MI355X?); accelerators: "),
    "data set": (
        ["data", "fetch", "--what", "trian"],
        "--what: no data set 'trian' (did you mean train?); data sets: train, validation, tokenizer",
    ),
    "tracker": (
        ["upload", "x", "--to", "tensorbord", "x"],
        "--to: no tracker 'tensorbord' (did you mean tensorboard?); trackers: tensorboard, wandb, mlflow",
    ),
    "campaign": (["resume", "20260101-000000_mxfp4"], "no campaign '20260101-000000_mxfp4'; campaigns: none"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_misspelled_name_is_answered_with_the_one_that_was_meant(kind, monkeypatch, capsys, tmp_path):
    words, message = MISTAKES[kind]
    monkeypatch.setattr(cli, "TRAINING", frozenset())  # where there is no torch, too
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    try:
        code = cli.main(words)
    except SystemExit as refused:
        code = refused.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_an_option_may_be_abbreviated_and_what_follows_two_dashes_is_no_option(monkeypatch, capsys):
    assert cli.main(["study", "--li", "--gri", "paper"]) == 0
    seen = []
    monkeypatch.setattr("harness.commands.test.main", lambda args: seen.append(args.pytest) or 0)
    assert cli.main(["test", "--", "--no-header"]) == 0 and seen == [["--no-header"]]


def test_the_nearest_name_is_the_most_alike_or_the_one_that_contains_the_text():
    names = ["proxy", "study", "llama31_8b", "mi355x_8x8_of_somebody"]
    assert nearest("LLAMA31_8B", names) == "llama31_8b"
    assert nearest("mi355", names) == "mi355x_8x8_of_somebody"
    assert nearest("xy", names) is None and nearest("anything", []) is None


def test_a_long_list_is_cut_and_control_characters_are_escaped():
    text = unknown_name("campaign", "\x1b[2J", [f"run{i}" for i in range(45)])
    assert text.startswith("no campaign '\\x1b[2J'; campaigns: run0, ") and text.endswith("run39, 5 more")
