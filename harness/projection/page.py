"""Writes docs/project.md from the data files of `project`, so that both agree."""

from __future__ import annotations

from dataclasses import asdict

from compliance.benchmark import BENCHMARK
from harness.base.text import markdown_table
from harness.projection import systems
from harness.projection.step_time import PRECISIONS
from harness.projection.systems import Fitted

_HEAD = """# Projected time to train

`./run.sh project 72xGB300 --gbs 36` projects step time and time to train of Llama 3.1 8B on other hardware. This page
describes the model behind it, its constants and its errors. In the command's output only the column "public" is
measured; every other figure is modelled. A projection is not a result. Results not verified by MLCommons Association.

`python -m harness.projection.fit TREE ..` generates this page together with `harness/analysis/public/project.yaml`; a
test compares both. TREE is a checkout of github.com/mlcommons/training_results_v5.1 and the v6.0 logs of AMD. Only
derived numbers are stored. Without TREE the command fits the stored numbers again, which is needed after a change of
harness/machine/facts.yaml.

## Model

Per accelerator and step, with s = global batch size / accelerators sequences:

    step       = s * (linear + head + attention + memory) * (1 + bubble) + gradients + activations + fixed
    linear     = {linear:.1f} TFLOP / (peak of the format * LINEAR * boost)
    head       = {head:.1f} TFLOP / (BF16 peak * LINEAR * boost)
    attention  = {attention:.1f} TFLOP / (peak of its format * ATTENTION * boost)
    memory     = MEMORY_TB / memory bandwidth
    boost      = (board power / 1000 W) ^ POWER
    gradients  = EXPOSED * G * ((d - 1) / d / link + (m - 1) / m / (8 * network))
                 G: {weights:.2f}e9 weights / (tensor * pipeline), BF16 gradients out and weights back (FP8: one byte)
                 d: accelerators in a domain, m: domains; eight network links carry one copy of the gradients
    activations = EXCHANGE * C * s * {layer_bytes:.2f} GB / link
                 C: 8 * (tensor - 1) + 3 * {key_value:g} * (context - 1) / tensor copies of all layers' activations:
                 tensor parallelism exchanges them eight times per layer, context keys and values three times
    bubble     = (pipeline - 1) * data parallel size / global batch size, one sequence per micro batch
    evaluation = {sequences} / accelerators * (linear + head + attention + memory) / 3
    samples    = REFERENCE * mean of the reference convergence point at this batch size (* FOUR_BIT)
    stop       = samples + half an evaluation interval
    time       = stop / global batch size * step + stop / interval * evaluation

TFLOP are those of one sequence, forward and backward (harness/config/derived.py). A sequence costs the same under any
tensor, context or pipeline parallelism. The model does not include the memory limit (`plan` checks it), data loading,
pauses, and the time from run_start to the first step.

## Fitted constants

The model has nine constants, for {systems} public systems of {kinds} kinds (accelerator, precision and number). The
seven constants of speed are fitted to the logarithm of the step time with a soft L1 loss. A weight of 0.05 pulls the
logarithm of each constant to its prior, so that a constant that the systems do not determine stays there. The two
constants of convergence are medians. Several terms scale alike. So their sum is well determined, but a single constant
is not a measurement: LINEAR and MEMORY_TB, for example, can replace each other.

"""

_VALIDATION = """
## Validation

Every public system is predicted with constants fitted without it: without its submitter, without any system with its
accelerator, or without any system of its accelerator's maker. The table gives the absolute error of time to train in
percent. Only the constants are held out; the form of the model was chosen with knowledge of all systems.

"""

_LIMITS = """
Leaving out a maker is the hardest test, and part of it cannot be passed. AMD's public systems are single nodes, so they
contain no information about networks, tensor parallelism or Hopper, and NVIDIA's clusters are then predicted from
priors. Some systems converge differently, because their learning rate, warmup or evaluation interval differs (the
two-node systems of Dell and University of Florida, HPE). A projection assumes the settings of a good run.

`project` states an error and its origin, the ninetieth percentile ("nine of ten below") of one line of the table:

- the first line for hardware, format and batch size that public runs have;
- the second line for an accelerator, format or batch size without public runs;
- the third line for anything else (BF16, pipelines, clusters larger than any public one).

## By system

"""

_HARDWARE = """
## Accelerators

Peaks are dense, in TFLOP/s; memory is in TB/s; links of one accelerator are in GB/s in one direction; `among` is the
number of accelerators in a domain. The figures are those of harness/machine/facts.yaml, which names the source of each.
The column "source" names the source of the peaks.

"""


def page(made: Fitted) -> str:
    load = systems.load()
    rows = systems.measurements(made.measured)
    kinds = {(row.setup.accelerator.name, row.setup.precision, row.setup.accelerators) for row in rows}
    figures = {
        name: getattr(load, name)
        for name in ("linear", "head", "attention", "weights", "layer_bytes", "key_value")
    }
    return "".join(
        [
            _HEAD.format(
                **figures, sequences=BENCHMARK.evaluation_sequences, systems=len(rows), kinds=len(kinds)
            ),
            _constants(made),
            _VALIDATION,
            _validation(made),
            _LIMITS,
            _systems(made),
            _HARDWARE,
            _hardware(),
        ]
    )


_MEANINGS = {
    "linear": "share of the peak that matrix products reach",
    "attention": "the same for attention products",
    "memory_tb": "terabytes a training sequence moves through memory",
    "power": "exponent of board power: boards run into their power limit",
    "exposed": "share of the gradient exchange that does not overlap with compute",
    "exchange": "time of tensor and context parallel exchange over bytes / bandwidth",
    "fixed_s": "seconds of every step",
    "reference": "samples to target in FP8 over the reference's mean",
    "four_bit": "samples to target in four bits over FP8",
}


def _constants(made: Fitted) -> str:
    rows = [[name.upper(), f"{value:g}", _MEANINGS[name]] for name, value in asdict(made.constants).items()]
    return markdown_table(["constant", "value", "meaning"], rows)


def _validation(made: Fitted) -> str:
    rows = [
        [
            f"without its {name}",
            *(
                f"{error:.1f}"
                for error in (found.median_pct, found.p90_pct, found.max_pct, found.step_median_pct)
            ),
        ]
        for name, found in made.validation.items()
    ]
    return markdown_table(["predicted", "median", "nine of ten below", "largest", "step time, median"], rows)


def _systems(made: Fitted) -> str:
    rows = []
    for row in systems.measurements(made.measured):
        setup, errors = row.setup, made.errors[row.key]
        system = f"{setup.accelerators}x {setup.accelerator.name}, {setup.precision}"
        figures = [str(setup.global_batch_size), f"{1000 * row.step_s:.0f}", f"{row.minutes:.2f}"]
        rows.append([row.key, system, *figures, *(f"{time:+.1f}" for time, _ in errors)])
    folds = [f"error % without its {name}" for name in made.validation]
    return markdown_table(["system", "accelerators", "batch", "step ms", "minutes, measured", *folds], rows)


def _hardware() -> str:
    rows = []
    for board in systems.accelerators().values():
        peaks = [f"{board.tflops[one]:g}" if one in board.tflops else "–" for one in PRECISIONS]
        links = [f"{board.link_gb_s:g} among {board.domain}", f"{board.network_gb_s:g}"]
        rows.append(
            [board.name, *peaks, f"{board.memory_tb_s:g}", f"{board.power_w:g}", *links, board.source]
        )
    return markdown_table(["accelerator", *PRECISIONS, "memory", "W", "link", "network", "source"], rows)
