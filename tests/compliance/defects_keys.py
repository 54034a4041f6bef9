"""Defects of keys and values: name -> (rule, change)."""

from __future__ import annotations

from tests.compliance.logs import compliant_log
from tests.compliance.mutate import drop, edit, moved, twice


def _keys(**keys):
    return lambda log: compliant_log(**keys)


_VALUES = {
    "C9": [
        {"opt_end_learning_rate": 8.0001e-5},
        {"opt_end_learning_rate": 8e-4},
        {"opt_learning_rate_decay_steps": 1_200_000},
        {"opt_learning_rate_warmup_steps": 65},
    ],
    "C10": [
        {"micro_batch_size": 3},
        {"gradient_accumulation_steps": 5},
        {"micro_batch_size": 64},
        {"global_batch_size": 33},
        {"tensor_parallelism": 64},
        {"pipeline_parallelism": 33},
    ],
    "C13": [
        {"init_checkpoint_step": 100},
        {"init_checkpoint_step": False},
        {"target_accuracy": 3.4},
        {"target_accuracy": 3.29},
        {"train_samples": 100_000},
    ],
    "C14": [
        {"seed": 7.5},
        {"seed": 7.0},
        {"seed": "7"},
        {"seed": True},
        {"seed": None},
        {"seed": -1},
        {"seed": [7]},
    ],
    "key_value": [
        {"submission_benchmark": "llama2_70b"},
        {"submission_benchmark": "llama31_8B"},
        {"submission_benchmark": "llama31_8b_proxy"},
        {"submission_division": "Closed"},
        {"submission_division": "open"},
        {"submission_org": " "},
        {"submission_org": 5},
        {"submission_platform": ""},
        {"submission_status": "unknown"},
        {"submission_status": ""},
        {"eval_samples": 1023},
        {"eval_samples": "1024"},
        {"train_samples": 0},
        {"train_samples": 1.5e9 + 0.5},
        {"train_samples": -1},
        {"train_samples": "all"},
        {"gradient_accumulation_steps": 0},
        {"gradient_accumulation_steps": 0.5},
        {"max_sequence_length": 4096},
        {"max_steps": 1_000_000},
        {"opt_name": "adam"},
        {"opt_name": "AdamW"},
        {"opt_base_learning_rate": "8e-4"},
        {"opt_base_learning_rate": -8e-4, "opt_end_learning_rate": -8e-5},
        {"opt_base_learning_rate": 0, "opt_end_learning_rate": 0},
        {"opt_learning_rate_warmup_steps": -1, "opt_learning_rate_decay_steps": 1_200_001},
        {"opt_learning_rate_warmup_steps": 64.5, "opt_learning_rate_decay_steps": 1_199_935.5},
        {"opt_learning_rate_decay_schedule": "cosine"},
        {"opt_learning_rate_decay_schedule": "linear"},
        {"opt_adamw_beta_1": 0.8999999761581421},
        {"opt_adamw_beta_2": 0.9499999880790710},
        {"opt_adamw_beta_2": 0.999},
        {"opt_adamw_epsilon": 1e-8},
        {"opt_adamw_weight_decay": 0.01},
        {"opt_gradient_clip_norm": True},
        {"opt_gradient_clip_norm": 0.3},
        {"lowest_numerical_precision_in_linear": "MXFP4"},
        {"lowest_numerical_precision_in_attn": "fp4"},
        {"lowest_numerical_precision_in_comm": 4},
        {"tensor_parallelism": 0},
        {"pipeline_parallelism": "1"},
        {"context_parallelism": True},
        {"expert_parallelism": 1.5},
        {"micro_batch_size": 0},
        {"config_filename": ""},
    ],
    "required_key": [
        {"config_filename": None},
        {"opt_adamw_beta_1": None},
        {"eval_samples": None},
        {"global_batch_size": None},
        {"lowest_numerical_precision_in_attn": None},
        {"micro_batch_size": None},
        {"submission_org": None},
        {"submission_status": None},
        {"train_samples": None},
    ],
    "rcp": [{"global_batch_size": 256, "gradient_accumulation_steps": 16}],
}

DEFECTS = {
    **{
        ", ".join(f"{key} = {value!r}" for key, value in keys.items()): (rule, _keys(**keys))
        for rule, sets in _VALUES.items()
        for keys in sets
    },
    "decay steps before warmup steps": (
        "C9",
        moved("opt_learning_rate_decay_steps", "opt_learning_rate_warmup_steps"),
    ),
    "a batch size as text": ("key_value", edit("global_batch_size", value="32")),
    "a batch size of 0": ("key_value", edit("global_batch_size", value=0)),
    "a negative batch size": ("key_value", edit("global_batch_size", value=-32)),
    "a batch size of 31.5": ("key_value", edit("global_batch_size", value=31.5)),
    "init_checkpoint_step twice": ("C13", twice("init_checkpoint_step")),
    "a second target": ("C13", twice("target_accuracy")),
    "the seed twice": ("C14", twice("seed")),
    "the seed twice among others": ("C14", lambda log: twice("seed")(twice("seed", value=5)(log))),
    "a second seed that is a text": ("C14", twice("seed", value="5")),
    "a seed without file": ("C14", lambda log: _bare(log, "file")),
    "a seed without line": ("C14", lambda log: _bare(log, "lineno")),
    "the batch size twice": ("required_key", twice("global_batch_size")),
    "a second batch size": ("required_key", twice("global_batch_size", value=16)),
    "the benchmark twice": ("required_key", twice("submission_benchmark")),
    "a misspelt precision key": (
        "required_key",
        edit("lowest_numerical_precision_in_linear", key="lowest_numerical_precision_linear"),
    ),
    "a key with a space": ("required_key", edit("opt_name", key="opt_name ")),
    "a key in capitals": ("required_key", edit("max_steps", key="MAX_STEPS")),
    "a key of another alphabet": ("required_key", edit("opt_name", key="\u043ept_name")),
    "no target_accuracy and a wrong checkpoint": (
        "C13",
        lambda log: edit("init_checkpoint_step", value=1)(drop("target_accuracy")(log)),
    ),
}


def _bare(log, name):
    def change(record):
        metadata = {key: value for key, value in record["metadata"].items() if key != name}
        return {**record, "metadata": metadata} if record["key"] == "seed" else record

    return [change(record) for record in log]
