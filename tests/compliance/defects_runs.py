"""Defects of the runs of one submission, and of its directory: name -> (rule, change of the directory)."""

from __future__ import annotations

import json
import os
import shutil

from compliance import system_description
from tests.compliance.logs import aborted, compliant_log, lines, positions
from tests.compliance.mutate import appended, delay, edit, edit_all, scaled, shifted, twice


def runs(*logs):
    """Write these as result_0.txt, result_1.txt .. over what is there."""

    def change(directory):
        for index, log in enumerate(logs):
            put(directory, index, log)

    return change


def put(directory, index, log):
    (directory / f"result_{index}.txt").write_text("\n".join(lines(log)) + "\n", encoding="utf-8")


def one(change, index=4):
    """A change of the log of one of the ten runs."""
    return lambda directory: put(directory, index, change(compliant_log(run=index)))


def configured(index=4, **keys):
    return lambda directory: put(directory, index, compliant_log(run=index, **keys))


def copied(change=lambda log: log):
    """The first run again in the place of the fifth."""
    return lambda directory: put(directory, 4, change(compliant_log()))


def every(**keys):
    return runs(*(compliant_log(run=index, **keys) for index in range(10)))


def without_files(*indices):
    def change(directory):
        for index in indices:
            (directory / f"result_{index}.txt").unlink()

    return change


def extra(name, content="noise\n"):
    return lambda directory: (directory / name).write_text(content, encoding="utf-8")


def renamed(old, new):
    return lambda directory: (directory / old).rename(directory / new)


def _reseeded(log):
    return edit("seed", value=77)(log)


def _with_second_seed(run, value):
    return twice("seed", value=value)(compliant_log(run=run))


def measured(change=lambda power: None):
    """power/ with the readings of one node in every run."""

    def add(directory):
        for log in directory.glob("result_*.txt"):
            _read(directory / "power", log.stem, "node_0.txt")
        change(directory / "power")

    return add


def _read(power, run, name):
    (power / run).mkdir(parents=True, exist_ok=True)
    (power / run / name).write_text(":::MLLOG {}\n", encoding="utf-8")


def _moved_in_time(log):
    return _reseeded([{**record, "time_ms": record["time_ms"] + 777_000_000} for record in log])


def _another_tail(log):
    """The first ten evaluations of another run."""
    other = iter(compliant_log(run=1))
    values = [record["value"] for record in other if record["key"] == "eval_accuracy"]
    mine = compliant_log(run=4)
    places = [i for i, record in enumerate(mine) if record["key"] == "eval_accuracy"]
    for place, value in list(zip(places, values, strict=True))[:10]:
        mine[place] = {**mine[place], "value": value}
    return mine


def _at_the_time_of_the_first(log):
    return [{**record, "time_ms": record["time_ms"] - 40_000_000} for record in log]


def _linked(directory):
    (directory / "result_4.txt").unlink()
    os.symlink("result_3.txt", directory / "result_4.txt")


def _directory_for_a_log(directory):
    (directory / "result_4.txt").unlink()
    (directory / "result_4.txt").mkdir()


def _from_one_on(directory):
    """result_1 .. result_10 without result_5."""
    for index in reversed(range(10)):
        (directory / f"result_{index}.txt").rename(directory / f"result_{index + 1}.txt")
    (directory / "result_5.txt").unlink()
    put(directory, 11, compliant_log(run=17))


_WARMUP_128 = {"opt_learning_rate_warmup_steps": 128, "opt_learning_rate_decay_steps": 1_199_872}
DEFECTS = {
    "one seed in two runs": ("C14", configured(seed=1000)),
    "one seed in all runs": ("C14", every(seed=5)),
    "one seed from two lines of code": ("C14", one(lambda log: edit("seed", value=1000, metadata={"lineno": 7})(log))),
    "one log under two names": ("C15", copied()),
    "a copy with another seed": ("C15", copied(_reseeded)),
    "a copy with shifted times": ("C15", copied(_moved_in_time)),
    "a copy at half the speed": ("C15", copied(lambda log: _reseeded(scaled(2.0)(log)))),
    "ten evaluations of another run": ("C15", copied(_another_tail)),
    "the time stamps of another run": ("C15", one(_at_the_time_of_the_first)),
    "a symbolic link to another run": ("C15", _linked),
    "the clock of one run halved": ("C16", one(scaled(0.5))),
    "every clock a hundredth": ("C16", runs(*(scaled(0.01)(compliant_log(run=i)) for i in range(10)))),
    "the clock of one run a tenth": ("C16", one(scaled(0.1), 0)),
    "another batch size in one run": ("C18", configured(global_batch_size=64)),
    "another learning rate in one run": ("C18", configured(opt_base_learning_rate=1e-3, opt_end_learning_rate=1e-4)),
    "another warmup in one run": ("C18", configured(**_WARMUP_128)),
    "another precision in one run": ("C18", configured(lowest_numerical_precision_in_linear="fp8")),
    "another organisation in one run": ("C18", configured(submission_org="another")),
    "another platform in one run": ("C18", configured(submission_platform="16x_accelerator")),
    "another status in one run": ("C18", configured(submission_status="preview")),
    "another parallelism in one run": ("C18", configured(tensor_parallelism=2)),
    "another configuration in one run": ("C18", configured(config_filename="other.yaml")),
    "another micro batch in one run": ("C18", configured(micro_batch_size=1, gradient_accumulation_steps=4)),
    "another benchmark in one run": ("C18", configured(submission_benchmark="llama31_405b")),
    "a gap in the sequence": ("C19", without_files(4)),
    "a gap and an eleventh": ("C19", lambda d: (without_files(4)(d), put(d, 10, compliant_log(run=10)))),
    "a gap in a sequence from one": ("C19", _from_one_on),
    "capitals in a name": ("C19", renamed("result_3.txt", "Result_3.txt")),
    "a backup": ("C19", extra("result_3.txt.bak")),
    "the switches of the official checks": ("C19", extra("package_checker_params", "rcp-bypass\nseed-checker-bypass")),
    "an empty result": ("C19", extra("result_4.txt", "")),
    "a result without records": ("C19", extra("result_4.txt", "epoch 1\n" * 9)),
    "a binary result": ("C19", extra("result_4.txt", "\0\0\0:::MLLOG {}")),
    "a directory for a result": ("C19", _directory_for_a_log),
    "two aborted runs": ("C20", runs(aborted(compliant_log()), aborted(compliant_log(run=1)))),
    "two runs above the target": ("C20", runs(*(compliant_log(run=i, final_eval_accuracy=3.4) for i in range(2)))),
    "two runs cut off": ("C1", runs(compliant_log()[:-1], compliant_log(run=1)[:-1])),
    "two runs cut off and counted": ("C20", runs(compliant_log()[:-1], compliant_log(run=1)[:-1])),
    "one run cut off and one aborted": ("C20", runs(compliant_log()[:-1], aborted(compliant_log(run=1)))),
    "one run that never started": ("C1", one(lambda log: log[: positions(log, "run_start")[0]])),
    "one run aborted and out of order": ("C2", one(lambda log: delay("eval_accuracy", -400_000)(aborted(log)))),
    "one of nine runs aborted": (
        "quality_target", lambda d: (without_files(9)(d), put(d, 0, aborted(compliant_log()))),
    ),
    "the second seed of every run": ("C14", lambda d: [put(d, i, _with_second_seed(i, 5)) for i in range(10)]),
    "the second seed of another run": ("C14", lambda d: put(d, 4, _with_second_seed(4, 1003))),
    "one run above the target": ("quality_target", one(lambda log: edit("eval_accuracy", -1, value=3.35)(log))),
    "faster than the reference": ("rcp", runs(*(compliant_log(run=index, evaluations=14) for index in range(10)))),
    "one run faster than any": ("rcp", runs(compliant_log(evaluations=8))),
    "a batch size without reference": ("rcp", every(global_batch_size=192, gradient_accumulation_steps=12)),
    "a record of a tool behind one log": ("C1", one(appended("eval_accuracy", 3.1, samples_count=1))),
    "one run with 31 minutes of initialisation": ("C3", one(shifted("init_stop", 1_800_000))),
    "one run without a cleared cache": ("C4", one(edit_all("cache_clear", value=False))),
    "one run of another round": ("required_key", configured(config_filename=None)),
}  # fmt: skip

SYSTEM = {
    "submitter": "reference",
    "division": "closed",
    "system_name": "box",
    "number_of_nodes": "1",
    "accelerators_per_node": "8",
    "accelerator_model_name": "NVIDIA B200",
}


DESCRIPTION = {**dict.fromkeys(system_description.FIELDS, "1"), **SYSTEM, "status": "Available on-premise"}
_ELEVENTH = "\n".join(lines(compliant_log(run=11)))
CODE = "benchmarks/llama31_8b/implementations/ours"
SUBMITTED = (
    "README.md",
    "benchmark.yaml",
    "train.py",
    "setup.sh",
    "init_datasets.sh",
    "run_and_time.sh",
    "box_ours.json",
)


def described(**fields):
    def change(directory):
        path = directory.parent.parent.parent / "systems" / "box.json"
        path.write_text(json.dumps({**DESCRIPTION, **fields}), encoding="utf-8")

    return change


def _without_config(directory):
    code = directory.parent.parent.parent / CODE
    (code / "benchmark.yaml").rename(code / "train.py")


def _second_system(change):
    """Ten more runs of the organisation, of another system."""

    def add(directory):
        other = directory.parent.parent / "other" / "llama31_8b"
        other.mkdir(parents=True)
        for index in range(10):
            put(other, index, change(index))

    return add


IN_A_PACKAGE = {
    "a batch size that the accelerators do not give": ("C10", described(accelerators_per_node="16")),
    "model parallelism that does not divide": ("C10", every(tensor_parallelism=3)),
    "a format that the accelerator lacks": ("C11", described(accelerator_model_name="NVIDIA H200")),
    "faster than the logged precision": (
        "C11",
        runs(*(scaled(0.6)(compliant_log(run=i, lowest_numerical_precision_in_linear="bfloat16")) for i in range(10))),
    ),
    "a configuration that is not submitted": ("C11", _without_config),
    "faster than the accelerators": ("C16", runs(*(scaled(0.1)(compliant_log(run=i)) for i in range(10)))),
    "fewer accelerators than ran": ("C16", described(accelerator_model_name="NVIDIA H100", accelerators_per_node="1")),
    "no system description": ("C19", lambda directory: (directory.parent.parent.parent / "systems/box.json").unlink()),
    "a stale scaling.json": ("C19", extra("scaling.json", '{"scaling_factor": 1.0178}')),
    "a broken scaling.json": ("C19", extra("scaling.json", "{")),
    "a factor beyond any float": ("C19", extra("scaling.json", f'{{"scaling_factor": 1{"0" * 400}}}')),
    "nine files": ("C19", without_files(9)),
    "two files": ("C19", without_files(*range(2, 10))),
    "eleven files": ("C19", lambda directory: put(directory, 10, compliant_log(run=10))),
    "another ending": ("C19", renamed("result_3.txt", "result_3.log")),
    "proxy runs in a result directory": ("key_value", runs(*(compliant_log(run=i, proxy=True) for i in range(10)))),
    "a stray file": ("C19", extra("notes.txt")),
    "a copy with brackets": ("C19", extra("result_3 (1).txt")),
    "an eleventh log by another name": ("C19", extra("result_best.txt", _ELEVENTH)),
    "an eleventh log by a number that is there": ("C19", extra("result_03.txt", _ELEVENTH)),
    "a file of power": ("C19", extra("power")),
    "power of nine runs": ("C19", measured(lambda power: shutil.rmtree(power / "result_4"))),
    "power of an eleventh run": ("C19", measured(lambda power: _read(power, "result_10", "node_0.txt"))),
    "notes in power": ("C19", measured(lambda power: (power / "notes.txt").write_text("x"))),
    "notes in the power of a run": ("C19", measured(lambda power: _read(power, "result_4", "notes.txt"))),
    "a second node without the first": (
        "C19", measured(lambda power: (power / "result_4/node_0.txt").rename(power / "result_4/node_1.txt")),
    ),
    "two nodes in one run of ten": ("C19", measured(lambda power: _read(power, "result_4", "node_1.txt"))),
    "a switch in one run of ten": ("C19", measured(lambda power: _read(power, "result_4", "sw_0.txt"))),
    "a hidden file": ("C19", extra(".DS_Store")),
    "an empty directory of power": ("C19", lambda directory: (directory / "power").mkdir()),
    "the runs of another system again": ("C15", _second_system(lambda i: compliant_log(run=i))),
    "the seeds of another system": ("C14", _second_system(lambda i: compliant_log(run=i + 10, seed=1000 + i))),
    "a description of the open division": ("C12", described(division="open")),
    "no result at all": ("C19", without_files(*range(10))),
}  # fmt: skip
