"""Rules that compare the logs with the system description and with their other records: C11, C12, C13 and C18."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding, Runs, Submission, System, accelerators_named_in
from compliance.rules.clock_rules import RUN_PHASE
from compliance.runlog import number, text

# status in a log -> first word of the description's status; a cloud provider published its own system as onprem
_STATUSES = {
    "onprem": ("Available",),
    "cloud": ("Available",),
    "preview": ("Preview",),
    "research": ("Research",),
}
_CALLED_ALIKE = {"GB200", "GB300"}  # NVIDIA's v5.1 logs of GB300 say GB200, the default of its launch script
_COUNTED = re.compile(
    r"\s*(\d{1,6})\s*x", re.IGNORECASE
)  # number of nodes or accelerators at the start of a platform's name
_EVERYWHERE = (
    "fp64",
    "fp32",
    "bfloat16",
    "fp16",
    "int8",
    "uint8",
)  # formats that every accelerator has, in its tensor cores or elsewhere
_STANDARD = (*RUN_PHASE, "init_start", "init_stop", "epoch_start", "epoch_stop", "seed", "cache_clear")
_OTHERS = ("init_checkpoint_step", "target_accuracy")
_PRECISION = "lowest_numerical_precision"
_ALIASES = {  # names that vendors and Megatron use for keys of the rules
    **{f"{_PRECISION}_{place}": f"{_PRECISION}_in_{place}" for place in ("linear", "attn", "comm")},
    **{f"{kind}_model_parallel_size": f"{kind}_parallelism" for kind in ("tensor", "pipeline", "expert")},
    **{f"{kind}_parallel_size": f"{kind}_parallelism" for kind in ("tensor", "pipeline", "context", "expert")},
    "train_micro_batch_size": "micro_batch_size",
    "learning_rate": "opt_base_learning_rate",
    "base_learning_rate": "opt_base_learning_rate",
    "min_lr": "opt_end_learning_rate",
    "warmup_steps": "opt_learning_rate_warmup_steps",
    "weight_decay": "opt_adamw_weight_decay",
    "grad_accumulation_steps": "gradient_accumulation_steps",
    "random_seed": "seed",
}  # fmt: skip
_SYNONYMS = {"bf16": "bfloat16", "half": "fp16", "float32": "fp32"}
_WORLD = ("world_size", "num_gpus", "num_accelerators", "number_of_accelerators", "number_of_ranks")
_LENGTHS = ("sequence_length", "seq_length", "seq_len", "max_seq_length", "encoder_seq_length")


@rule(
    "C12",
    source="mlperf-logging, package_checker.py: a division other than closed turns off its seed and RCP checks.",
    breaks="a description that says open with logs of the closed division.",
)
def division(submission: Submission) -> Iterator[Finding]:
    """Logs and system description name the same division."""
    system = submission.system
    for case in submission.cases if system and system.division else ():
        point = case.log.points.get("submission_division")
        if system and point is not None and point.value != system.division:
            message = f"{system.path} names another division, for which the official tools skip checks: make them agree"
            yield case.error(point, point.value, system.division, message)
            return


@rule(
    "C12",
    source="submission_rules, System descriptions (status). The only difference in v5.1 and v6.0: onprem for cloud.",
    breaks='status "Research, Development, or Internal (RDI)" with logs that say onprem (warning).',
)
def status(submission: Submission) -> Iterator[Finding]:
    """Logs and system description agree whether the system is available, a preview or research."""
    system = submission.system
    for case in submission.cases[:1] if system and system.status else ():
        point = case.log.points.get("submission_status")
        expected = _STATUSES.get(text(point.value) or "") if point else None
        if system and point is not None and expected and not system.status.startswith(expected):
            message = f"{system.path} states another status, which decides the category of the result: make them agree"
            yield case.question(point, point.value, system.status, message)


@rule(
    "C12",
    source="submission_rules, Training results. The only difference in v5.1 and v6.0: GB200 for GB300.",
    breaks="platform 64xB200 with a description of 8 MI355X (warning).",
)
def platform(submission: Submission) -> Iterator[Finding]:
    """Accelerators and their number in submission_platform agree with the system description."""
    system = submission.system
    for case in submission.cases[:1] if system else ():
        point = case.log.points.get("submission_platform")
        value = text(point.value) if point else None
        if system and point is not None and value and (why := _contradicts(value, system)):
            message = f"{why} of {system.path}: check that the logs belong to this system"
            yield case.question(point, value, _described(system), message)


def _contradicts(value: str, system: System) -> str | None:
    """Returns how a platform's name contradicts a description."""
    named, described = accelerators_named_in(value), accelerators_named_in(system.model)
    if named and described and not named & described and not named | described <= _CALLED_ALIKE:
        return "the platform names another accelerator than that"
    counted, known = _COUNTED.match(value), {system.nodes, system.per_node, system.accelerators}
    if counted and system.accelerators and int(counted[1]) not in known:
        return "the number in the platform's name is neither the number of nodes nor a number of accelerators"
    return None


def _described(system: System) -> str:
    return f"{system.nodes or '?'} nodes x {system.per_node or '?'} {system.model}"


@rule(
    "C12",
    source="submission_rules, System descriptions; no published description contradicts itself.",
    breaks='system_name "box with 8x H100" in a description of MI355X (warning).',
)
def system_name(submission: Submission) -> Iterator[Finding]:
    """An accelerator in system_name is the accelerator of the description."""
    system = submission.system
    if system is None:
        return
    named, described = accelerators_named_in(system.name), accelerators_named_in(system.model)
    if named and described and not named & described:
        message = f"{system.path}: system_name and accelerator_model_name name different accelerators: make them agree"
        yield submission.question(None, system.name, system.model, message)


@rule(
    "C12",
    source="submission_rules, System descriptions (number_of_nodes, accelerators_per_node).",
    breaks="world_size 64 with a description of 8 accelerators (warning).",
)
def world_size(submission: Submission) -> Iterator[Finding]:
    """The number of accelerators that a log states equals that of the description."""
    system = submission.system
    for case in submission.cases[:1] if system and system.accelerators else ():
        for key in _WORLD:
            point, found = case.log.points.get(key), case.number(key)
            if system and point is not None and found is not None and found != system.accelerators:
                message = f"{system.path} describes {_described(system)}"
                yield case.question(point, found, system.accelerators, message)


@rule(
    "C11",
    source="training_rules, numerical formats; data sheets (compliance/rulesets/accelerators.yaml).",
    breaks="nvfp4 in attention on MI355X; fp8 in communication on A100.",
)
def other_formats(submission: Submission) -> Iterator[Finding]:
    """The accelerator supports the precisions that are logged for attention and communication."""
    system = submission.system
    for case in submission.cases if system and system.peaks else ():
        for key in ("lowest_numerical_precision_in_attn", "lowest_numerical_precision_in_comm"):
            point = case.log.points.get(key)
            precision = text(point.value) if point else None
            known = precision in case.ruleset.keys[key].one_of and precision not in _EVERYWHERE
            if system and point is not None and known and precision not in system.peaks:
                message = (
                    f"{system.model}: the accelerator does not have this format: log the format that ran"
                )
                yield case.error(point, precision, ", ".join(system.peaks), message)


@rule(
    "C13",
    source="training_rules, closed table (dropout 0, sequence length 8,192).",
    breaks="hidden_dropout 0.1; seq_length 4096; either of them inside a logged configuration.",
)
def other_constants(case: Case) -> Iterator[Finding]:
    """Dropout is 0 and the sequence length is the benchmark's, wherever a log states them."""
    length = case.ruleset.keys["max_sequence_length"].equals
    start = case.log.points.get("run_start")
    for key, events in case.by_key.items():
        if key in case.ruleset.keys or key in _STANDARD:
            continue
        for event in events:
            if isinstance(event.value, dict) and start and event.line > start.line:
                break  # statistics of the run
            for name, value in _leaves(key, event.value):
                expected = 0.0 if "dropout" in name.lower() else length if name.lower() in _LENGTHS else None
                found = number(value)
                if expected is not None and found is not None and found != expected:
                    yield case.error(
                        event,
                        f"{name} {found}",
                        expected,
                        "the closed division fixes this value: train with it",
                    )
                    return


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields named values, including those inside an object."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(name, inner)
    else:
        yield key, value


@rule(
    "C18",
    source="mlperf-logging, common.yaml (v6.1); AMD's v6.0 logs spell one key differently.",
    breaks="lowest_numerical_precision_linear fp8 with lowest_numerical_precision_in_linear mxfp4 (warning).",
)
def contradictions(case: Case) -> Iterator[Finding]:
    """A vendor's own key has the same value as the benchmark's key of the same meaning."""
    for alias, key in _ALIASES.items():
        own, point = case.log.points.get(alias), case.log.points.get(key)
        if own is not None and point is not None and _plain(own.value) != _plain(point.value):
            message = f"line {point.line} ({key}) states another value: log the one that ran"
            yield case.warning(own, own.value, point.value, message)


def _plain(value: Any) -> Any:
    return _SYNONYMS.get(value.lower(), value.lower()) if isinstance(value, str) else value


@rule(
    "C18",
    source="training_rules, Benchmark Results (one configuration); no published result varies a vendor's own key.",
    breaks="fp4_recipe a in five runs and b in five; a key that one of ten runs does not log (warning).",
)
def vendor_keys(runs: Runs) -> Iterator[Finding]:
    """A vendor's own key has one value in all runs."""
    own = [_own_keys(case) for case in runs.cases]
    for key in dict.fromkeys(key for events in own for key in events):
        first = next(events[key] for events in own if key in events)
        for case, events in zip(runs.cases, own, strict=True):
            found = events[key].value if key in events else "absent"
            if found != first.value or isinstance(found, bool) != isinstance(first.value, bool):
                message = "another run has another value: all runs of a result must use one configuration"
                yield case.warning(events.get(key, key), found, first.value, message)
                break


def _own_keys(case: Case) -> Mapping[str, Event]:
    """Returns the records with a plain value before run_start. Statistics are objects and may differ."""
    start = case.log.points.get("run_start")
    known = {*case.ruleset.keys, *_STANDARD, *_OTHERS}
    return {
        key: events[0]
        for key, events in case.by_key.items()
        if key not in known and isinstance(events[0].value, (str, int, float))
        if start is None or events[0].line < start.line
    }
