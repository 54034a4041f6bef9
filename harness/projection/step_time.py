"""Step time and time to train of Llama 3.1 8B, from arithmetic, bytes and links. Pure; docs/project.md explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from harness.contract.config import Model

_NETWORK_LINKS = 8  # links of a node, which together send one copy of the gradients
_POWER_W = 1000.0  # board power at which the power term is 1
FOUR_BIT = ("mxfp4", "nvfp4")
PRECISIONS = ("bf16", "fp8", *FOUR_BIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """Figures of one accelerator from its data sheet.

    Args:
        tflops: format -> dense peak, for formats that run natively.
        memory_tb_s: memory bandwidth.
        link_gb_s: bandwidth to the other accelerators of its link domain, one direction; `domain` is their number, this
            one included.
        network_gb_s: bandwidth to other domains, one direction.
    """

    name: str
    tflops: Mapping[str, float]
    memory_tb_s: float
    power_w: float
    link_gb_s: float
    domain: int
    network_gb_s: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """The setup to project.

    Args:
        precision: precision of the linear layers.
        attention: precision of the attention products, bf16 or fp8.
        interval_samples: samples between evaluations.
    """

    accelerator: Accelerator
    accelerators: int
    global_batch_size: int
    precision: str
    attention: str
    tensor: int = 1
    context: int = 1
    pipeline: int = 1
    interval_samples: int = BENCHMARK.evaluation_interval_samples

    @property
    def sequences(self) -> float:
        """Sequences per step and accelerator, for any split."""
        return self.global_batch_size / self.accelerators

    @property
    def data_parallel(self) -> int:
        return self.accelerators // (self.tensor * self.context * self.pipeline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Arithmetic of one training sequence in TFLOP, and the data that a step moves."""

    linear: float
    head: float
    attention: float
    weights: float  # 1e9
    layer_bytes: float  # GB: one activation of the whole model width, once a layer
    key_value: float  # width of keys and values together, divided by the model's width


@dataclass(frozen=True, kw_only=True, slots=True)
class Constants:
    """The fitted constants: seven for speed, two for convergence.

    Args:
        linear: share of the data sheet's peak that matrix products reach.
        attention: the same for attention products.
        memory_tb: terabytes that a training sequence moves through memory beside them.
        power: exponent of (board power / 1000 W) on both shares, because boards reach their power limit.
        exposed: share of the gradient exchange that does not overlap with compute.
        exchange: exposed time of tensor and context parallel exchange over bytes / bandwidth.
        fixed_s: constant seconds of every step.
        reference: samples to target in FP8 over the mean of the reference convergence point.
        four_bit: samples to target in four bits over FP8.
    """

    linear: float
    attention: float
    memory_tb: float
    power: float
    exposed: float
    exchange: float
    fixed_s: float
    reference: float
    four_bit: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """Times in seconds unless a name says otherwise; `parts_s` add up to the step."""

    parts_s: Mapping[str, float]
    step_s: float
    evaluation_s: float
    samples_to_target: float
    samples_at_stop: float
    evaluations: float
    time_s: float


def work(model: Model) -> Work:
    """6 operations per weight and token, with the output head, and causal attention (harness/config/derived.py)."""
    tokens, width = model.sequence_length, model.hidden_size
    head = model.vocab_size * width
    norms = (2 * model.layers + 1) * width
    linear = model.parameters - 2 * head - norms
    return Work(
        linear=6 * linear * tokens / 1e12,
        head=6 * head * tokens / 1e12,
        attention=6 * model.layers * width * tokens**2 / 1e12,
        weights=model.parameters / 1e9,
        layer_bytes=2 * tokens * width * model.layers / 1e9,
        key_value=2 * model.query_groups / model.attention_heads,
    )


def forecast(setup: Setup, load: Work, known: Constants) -> Forecast:
    """All predictions of the model for a setup."""
    compute = _compute_s(setup, load, known)
    parts = {name: setup.sequences * seconds for name, seconds in compute.items()}
    parts["pipeline bubble"] = sum(parts.values()) * _bubble(setup)
    parts["gradient exchange"] = known.exposed * _gradient_s(setup, load)
    parts["activation exchange"] = known.exchange * _exchange_s(setup, load)
    parts["fixed"] = known.fixed_s
    step = sum(parts.values())
    sequences = BENCHMARK.evaluation_sequences / setup.accelerators
    evaluation = sequences * sum(compute.values()) / 3  # forward passes only
    samples = expected_samples(setup, known)
    stop = samples + setup.interval_samples / 2  # the target is noticed half an interval later on average
    evaluations = stop / setup.interval_samples
    return Forecast(
        parts_s=parts,
        step_s=step,
        evaluation_s=evaluation,
        samples_to_target=samples,
        samples_at_stop=stop,
        evaluations=evaluations,
        time_s=stop / setup.global_batch_size * step + evaluations * evaluation,
    )


def expected_samples(setup: Setup, known: Constants) -> float:
    """Samples to target at this batch size: public FP8 runs need a constant fraction of the reference point."""
    mean = reference_points.reference(setup.global_batch_size).mean_samples
    return mean * known.reference * (known.four_bit if setup.precision in FOUR_BIT else 1.0)


def _compute_s(setup: Setup, load: Work, known: Constants) -> dict[str, float]:
    """Seconds for which a training sequence keeps one accelerator busy."""
    board = setup.accelerator
    boost = (board.power_w / _POWER_W) ** known.power
    wide, narrow = board.tflops["bf16"], board.tflops[setup.precision]
    return {
        "linear layers": load.linear / (narrow * known.linear * boost),
        "output head": load.head / (wide * known.linear * boost),
        "attention": load.attention / (board.tflops[setup.attention] * known.attention * boost),
        "memory": known.memory_tb / board.memory_tb_s,
    }


def _gradient_s(setup: Setup, load: Work) -> float:
    """Reduce-scatter of BF16 gradients and all-gather of weights (FP8: one byte); first inside a domain."""
    board = setup.accelerator
    gigabytes = load.weights * (2 + (1 if setup.precision == "fp8" else 2)) / (setup.tensor * setup.pipeline)
    near = min(board.domain, setup.accelerators)
    seconds = gigabytes * (near - 1) / near / board.link_gb_s
    domains = setup.accelerators / near
    return seconds + gigabytes * (domains - 1) / domains / (board.network_gb_s * _NETWORK_LINKS)


def _exchange_s(setup: Setup, load: Work) -> float:
    """Exchange between tensor and context parallel neighbours: each sends its part to each of the others.

    Tensor: the activations, eight times per layer: gather and scatter, attention and MLP, forward and backward.
    Context: keys and values, gathered forward and backward, and their gradients scattered; tensor parallelism shares
    the heads.
    """
    copies = 8 * (setup.tensor - 1) + 3 * load.key_value * (setup.context - 1) / setup.tensor
    return copies * setup.sequences * load.layer_bytes / setup.accelerator.link_gb_s


def _bubble(setup: Setup) -> float:
    """Idle share of a pipeline without interleaving, with one sequence per micro batch."""
    return (setup.pipeline - 1) * setup.data_parallel / setup.global_batch_size


def relative_error(value: float, measured: float) -> float:
    """Signed error in percent."""
    return 100 * (value / measured - 1)
