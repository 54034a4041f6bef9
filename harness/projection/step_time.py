"""Step time and time to train of Llama 3.1 8B, from arithmetic, bytes and links. Pure; docs/project.md explains it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from harness.contract.config import Model

_FULL_POWER_W = 1400.0  # boards with this power or more reach the whole share of their peak
_WIDE = 1.1  # BF16 products reach a larger share of their peak than FP8 products, up to _MOST
_MOST = 0.95  # largest share of a peak: no product is faster than the roofline of facts.yaml
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
    maker: str
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

    @property
    def split(self) -> int:
        """Accelerators that share a sequence."""
        return self.tensor * self.context


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
    """The fitted constants.

    Args:
        fp8, nvfp4, mxfp4: share of the data sheet's peak that matrix products of the format reach, at most 0.95.
        attention: the same for attention products.
        memory_tb: terabytes that a training sequence moves through memory beside them.
        power: exponent of (board power / 1400 W) on the shares, because boards reach their power limit.
        near: share of the gradient exchange within a link domain that does not overlap with compute.
        far: the same for the exchange between domains.
        scale_s: seconds of every step for each accelerator that takes part in the exchange between domains.
        pieces: slowdown for each doubling of the accelerators that share a sequence: their products are smaller.
        exchange: time of tensor and context parallel exchange over bytes / bandwidth.
        fixed_s: constant seconds of every step.
        weights_tb: terabytes that an accelerator moves in every step for weights and optimizer.
        forward: share of a training sequence's time that its evaluation takes.
        forward_s: constant seconds of every evaluated sequence.
        reference: samples to target in FP8 over the mean of the reference convergence point.
        samples: format -> samples to target over FP8.
        bias: maker, accelerator, or accelerator and format -> logarithm by which its step is longer than the terms say.
    """

    fp8: float
    nvfp4: float
    mxfp4: float
    attention: float
    memory_tb: float
    power: float
    near: float
    far: float
    scale_s: float
    pieces: float
    exchange: float
    fixed_s: float
    weights_tb: float
    forward: float
    forward_s: float
    reference: float
    samples: Mapping[str, float]
    bias: Mapping[str, float] = field(default_factory=dict)

    def share(self, precision: str) -> float:
        """Return the share of the peak that matrix products of a format reach on a board of full power."""
        if precision == "bf16":
            return min(_MOST, _WIDE * self.fp8)
        return {"fp8": self.fp8, "nvfp4": self.nvfp4, "mxfp4": self.mxfp4}[precision]


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
    slower = 1 + known.pieces * math.log2(setup.split)
    parts = {name: setup.sequences * slower * seconds for name, seconds in compute.items()}
    parts["pipeline bubble"] = sum(parts.values()) * _bubble(setup)
    parts["gradient exchange"] = _gradient_s(setup, load, known)
    parts["activation exchange"] = known.exchange * _exchange_s(setup, load)
    parts["weights"] = known.weights_tb / setup.accelerator.memory_tb_s / (setup.tensor * setup.pipeline)
    parts["fixed"] = known.fixed_s
    longer = math.exp(sum(known.bias.get(name, 0.0) for name in biases(setup)))
    parts = {name: seconds * longer for name, seconds in parts.items()}
    step = sum(parts.values())
    forwards = math.ceil(BENCHMARK.evaluation_sequences / setup.data_parallel)  # one after the other
    one_s = known.forward * slower * sum(compute.values()) / setup.split / setup.pipeline
    evaluation = forwards * (one_s + known.forward_s) * longer
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


def biases(setup: Setup) -> tuple[str, str, str]:
    """Return the names of the biases that a setup has."""
    board = setup.accelerator
    return board.maker, board.name, f"{board.name} {setup.precision}"


def expected_samples(setup: Setup, known: Constants) -> float:
    """Samples to target at this batch size: public FP8 runs need a constant fraction of the reference point."""
    mean = reference_points.reference(setup.global_batch_size).mean_samples
    return mean * known.reference * known.samples.get(setup.precision, 1.0)


def _compute_s(setup: Setup, load: Work, known: Constants) -> dict[str, float]:
    """Seconds for which a training sequence keeps one accelerator busy."""
    board = setup.accelerator
    boost = min(1.0, board.power_w / _FULL_POWER_W) ** known.power
    wide, narrow = board.tflops["bf16"], board.tflops[setup.precision]
    return {
        "linear layers": load.linear / (narrow * known.share(setup.precision) * boost),
        "output head": load.head / (wide * known.share("bf16") * boost),
        "attention": load.attention / (board.tflops[setup.attention] * known.attention * boost),
        "memory": known.memory_tb / board.memory_tb_s,
    }


def _gradient_s(setup: Setup, load: Work, known: Constants) -> float:
    """Reduce-scatter of BF16 gradients and all-gather of weights (FP8: one byte); first inside a domain.

    Between domains every accelerator of a domain uses its own network link. Pipeline and tensor parallel ranks exchange
    their own weights, so that fewer accelerators share a copy.
    """
    board = setup.accelerator
    ranks = setup.tensor * setup.pipeline
    gigabytes = load.weights * (2 + (1 if setup.precision == "fp8" else 2)) / ranks
    near = min(board.domain, setup.accelerators)
    domains = setup.accelerators / near
    inside = gigabytes * (near - 1) / near / board.link_gb_s
    between = gigabytes * (domains - 1) / domains / (board.network_gb_s * near / ranks)
    scale = known.scale_s * setup.accelerators / ranks if domains > 1 else 0.0
    return known.near * inside + known.far * between + scale


def _exchange_s(setup: Setup, load: Work) -> float:
    """Exchange between tensor and context parallel neighbours: each sends its part to each of the others.

    Tensor: the activations, eight times per layer: gather and scatter, attention and MLP, forward and backward.
    Context: keys and values, gathered forward and backward, and their gradients scattered; tensor parallelism shares
    the heads. Neighbours that do not fit into a link domain exchange over the network.
    """
    board = setup.accelerator
    gigabytes = setup.sequences * load.layer_bytes
    tensor = 8 * (setup.tensor - 1) * gigabytes / board.link_gb_s
    context_link = board.link_gb_s if setup.split <= board.domain else board.network_gb_s
    return tensor + 3 * load.key_value * (setup.context - 1) / setup.tensor * gigabytes / context_link


def _bubble(setup: Setup) -> float:
    """Idle share of a pipeline without interleaving, with one sequence per micro batch."""
    return (setup.pipeline - 1) * setup.data_parallel / setup.global_batch_size


def relative_error(value: float, measured: float) -> float:
    """Signed error in percent."""
    return 100 * (value / measured - 1)
