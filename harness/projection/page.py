"""Writes docs/project.md from the data files of `project`, so that both agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from compliance.benchmark import BENCHMARK
from harness.base.text import markdown_table
from harness.projection import systems
from harness.projection.step_time import PRECISIONS
from harness.projection.systems import Fitted, Measured

_HEAD = """# Projected time to train

`./run.sh project 72xGB300 --gbs 36` projects step time and time to train of Llama 3.1 8B on other hardware (`--html
FILE.html`: as a page, with the nearest public result beside every projection). This page describes the model behind it,
its constants and its errors. In the command's output only the column "public" is measured; every other figure is
modelled. A projection is not a result. Results not verified by MLCommons Association.

`python -m harness.projection.fit` generates this page together with `harness/analysis/public/project.yaml` from the
public index; a test compares both. Run it after a change of the index, of project_systems.yaml or of
harness/machine/facts.yaml.

## Model

Per accelerator and step, with s = global batch size / accelerators sequences, g = tensor * context accelerators that
share a sequence, r = tensor * pipeline:

    step       = (compute * (1 + bubble) + gradients + activations + weights + FIXED_S) * bias
    compute    = s * (linear + head + attention + memory) * (1 + PIECES * log2(g))
    linear     = {linear:.1f} TFLOP / (peak of the format * FP8 or NVFP4 or MXFP4 * boost)
    head       = {head:.1f} TFLOP / (BF16 peak * min(0.95, 1.1 * FP8) * boost)
    attention  = {attention:.1f} TFLOP / (peak of its format * ATTENTION * boost)
    memory     = MEMORY_TB / memory bandwidth
    boost      = min(1, board power / 1400 W) ^ POWER
    gradients  = NEAR * G * (d - 1) / d / link + FAR * G * (m - 1) / m / (d / r * network) + SCALE_S * accelerators / r
                 G: {weights:.2f}e9 weights / r, BF16 gradients out and weights back (FP8: one byte)
                 d: accelerators in a domain, m: domains; the last two terms only with several domains
    activations = EXCHANGE * s * {layer_bytes:.2f} GB
                  * (8 * (tensor - 1) / link + 3 * {key_value:g} * (context - 1) / tensor / link)
                 tensor parallelism exchanges activations eight times per layer, context parallelism keys and values
                 three times; if g does not fit into a domain, the second link is the network
    weights    = WEIGHTS_TB / memory bandwidth / r
    bubble     = (pipeline - 1) * data parallel size / global batch size, one sequence per micro batch
    bias       = exp(of the maker + of the accelerator + of the accelerator and format)
    evaluation = ceil({sequences} / data parallel size) * (FORWARD * compute of a sequence / g + FORWARD_S) * bias
    samples    = REFERENCE * mean of the reference convergence point at this batch size * overhead of the format
    stop       = samples + half an evaluation interval
    time       = stop / global batch size * step + stop / interval * evaluation

TFLOP are those of one sequence, forward and backward (harness/config/derived.py). No product is faster than 95 % of the
data sheet's peak. The column "GiB" is the need of one accelerator by the memory model of `plan`. The model does not
include data loading, pauses, and the time from run_start to the first step.

## Fitted constants

The constants are fitted to the logarithms of the step times of {systems} public systems of {kinds} kinds (accelerator,
precision and number), robustly, each with a prior, so that a constant that the systems do not determine stays near it.
Biases have standard deviations of 4 % (maker, accelerator) and 5 % (accelerator and format). The constants of an
evaluation are fitted to its measured time; those of convergence are medians. Several terms scale alike. So their sum is
well determined, but a single constant is not a measurement.

"""

_VALIDATION = """
## Validation

Every public system is predicted with constants fitted without it: without its submitter, without any system with its
accelerator, or without any system of its accelerator's maker. The table gives the absolute error in percent, of the
systems that evaluate as often as the rules ask (C5). Only the constants are held out; the form of the model was chosen
with knowledge of all systems.

"""

_LIMITS = """
Mean signed error of the step time by maker, without the submitter: {makers}.

Leaving out a maker is the hardest test, and part of it cannot be passed. AMD's public systems have one or two nodes, so
they contain no information about large networks, tensor parallelism or Hopper, and NVIDIA's clusters are then predicted
from priors. The largest error without the submitter is that of the only Hopper system with tensor parallelism. Systems
that do not evaluate as often as the rules ask are in a table of their own; some of them also converge differently,
because their learning rate and warm-up differ. A projection assumes the settings of a good run.

`project` states an error and its origin, the ninetieth percentile ("nine of ten below") of one line of the table:

- the first line for hardware, format, count and batch size that public runs have;
- the second line for an accelerator, format, batch size, or format and count together without public runs;
- the third line for anything else (BF16, pipelines, clusters larger than any public one).

## By system

"""

_APART = """
Systems that do not evaluate as often as the rules ask (C5):

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
            _LIMITS.format(makers=", ".join(f"{name} {error:+.1f} %" for name, error in made.makers.items())),
            _systems(made, [row for row in rows if row.keeps_the_interval]),
            _APART,
            _systems(made, [row for row in rows if not row.keeps_the_interval]),
            _HARDWARE,
            _hardware(),
        ]
    )


_MEANINGS = {
    "fp8": "share of the peak that FP8 products reach on a board of 1400 W",
    "nvfp4": "the same for NVFP4",
    "mxfp4": "the same for MXFP4",
    "attention": "the same for attention products",
    "memory_tb": "terabytes a training sequence moves through memory",
    "power": "exponent of board power: boards run into their power limit",
    "near": "share of the gradient exchange within a domain that does not overlap with compute",
    "far": "the same between domains",
    "scale_s": "seconds of a step for each accelerator in the exchange between domains",
    "pieces": "slowdown for each doubling of the accelerators that share a sequence",
    "exchange": "time of tensor and context parallel exchange over bytes / bandwidth",
    "fixed_s": "seconds of every step",
    "weights_tb": "terabytes moved in every step for weights and optimizer",
    "forward": "time of an evaluated sequence over that of a trained one",
    "forward_s": "seconds of every evaluated sequence",
    "reference": "samples to target in FP8 over the reference's mean",
}


def _constants(made: Fitted) -> str:
    found = asdict(made.constants)
    rows = [[name.upper(), f"{found[name]:g}", meaning] for name, meaning in _MEANINGS.items()]
    rows += [
        [f"overhead, {name}", f"{value:g}", f"samples to target in {name} over FP8"]
        for name, value in made.constants.samples.items()
    ]
    rows += [
        [f"bias, {name}", f"{value:+.4f}", "logarithm of the step time"]
        for name, value in made.constants.bias.items()
    ]
    return markdown_table(["constant", "value", "meaning"], rows)


def _validation(made: Fitted) -> str:
    rows = [
        [f"without its {name}", *(f"{error:.1f}" for error in asdict(found).values())]
        for name, found in made.validation.items()
    ]
    figures = ["median", "nine of ten below", "largest"]
    head = [*(f"time to train, {name}" for name in figures), *(f"step time, {name}" for name in figures)]
    return markdown_table(["predicted", *head], rows)


def _systems(made: Fitted, found: Sequence[Measured]) -> str:
    rows = []
    for row in found:
        setup, errors = row.setup, made.errors[row.key]
        system = f"{setup.accelerators}x {setup.accelerator.name}, {setup.precision}"
        figures = [str(setup.global_batch_size), f"{1000 * row.step_s:.0f}", f"{row.minutes:.2f}"]
        rows.append(
            [row.key, system, *figures, f"{errors[0][1]:+.1f}", *(f"{time:+.1f}" for time, _ in errors)]
        )
    folds = [f"time, error % without its {name}" for name in made.validation]
    head = [
        "system",
        "accelerators",
        "batch",
        "step ms",
        "minutes, measured",
        "step, error % without its submitter",
    ]
    return markdown_table([*head, *folds], rows)


def _hardware() -> str:
    rows = []
    for board in systems.accelerators().values():
        peaks = [f"{board.tflops[one]:g}" if one in board.tflops else "–" for one in PRECISIONS]
        links = [f"{board.link_gb_s:g} among {board.domain}", f"{board.network_gb_s:g}"]
        rows.append(
            [board.name, *peaks, f"{board.memory_tb_s:g}", f"{board.power_w:g}", *links, board.source]
        )
    return markdown_table(["accelerator", *PRECISIONS, "memory", "W", "link", "network", "source"], rows)
