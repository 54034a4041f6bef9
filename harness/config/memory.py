"""Predicts the memory of one accelerator from the configuration alone.

The prediction is exact where Megatron allocates by formula (weights, gradient buffer, optimizer) and where autograd
keeps tensors that the model names (activations). Allocators and libraries get an allowance.
tests/submission/test_memory.py compares weights, gradients, optimizer and activations with a built model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from harness.base.errors import ConfigError
from harness.contract.config import Config, Recipe
from harness.machine import facts

_GIB = 2**30
_LIBRARIES_GIB = 3.0  # CUDA or ROCm context, NCCL or RCCL buffers, GEMM workspaces
USABLE = 0.95  # of what the driver reports: the rest is lost to fragmentation
_JOINT = {"mxfp4", "mxfp8", "fp8"}  # formats that SwiGLU can quantise its gradient to
# bits an element and its share of block scales; MXFP8 as emulation keeps it
_KEPT_BITS = {"fp8": 8.0, "fp8-row": 8.0, "mxfp8": 16.0, "mxfp4": 4.25, "nvfp4": 4.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory in bytes of the ranks that need most: those of the first pipeline stage."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    head: int  # logits and their gradient at the loss; 0 where another pipeline stage has them
    quantised_weights: int  # quantised weights, kept between micro batches
    working: int  # operands of the largest layer during its GEMMs
    outside_graph: int  # of passes that a CUDA graph does not hold, whose memory it keeps
    libraries: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in dataclasses.fields(self))


def predicted(config: Config, *, on_gpu: bool = True) -> Memory:
    """Peak memory of a rank of the first pipeline stage.

    Args:
        on_gpu: False for a CPU, where torch's RMSNorm keeps two FP32 copies and libraries need no allowance.
    """
    parallel, model = config.parallelism, config.model
    width = 2 if model.dtype == "bf16" else 4
    weights = local_parameters(config)
    shards = parallel.data if parallel.distributed_optimizer else 1
    tokens = config.batch.micro_batch_size * model.sequence_length
    # number of micro batches whose activations the first stage holds; interleaving adds a little
    in_flight: float = min(parallel.pipeline, config.micro_batches)
    if parallel.virtual_pipeline > 1:
        in_flight += (parallel.pipeline - 1) / parallel.virtual_pipeline
    activations = int(in_flight * activation_bytes(config, on_gpu=on_gpu))
    # logits; without the fused cross entropy also a copy in FP32 and a gradient in FP32
    logits = (width if "cross_entropy" in model.fusions else width + 8) * tokens * model.vocab_size
    head = logits // parallel.tensor if parallel.pipeline == 1 else 0
    working = _working(config, tokens) if on_gpu else 0
    return Memory(
        weights=width * weights,
        gradients=(4 if parallel.gradient_reduce == "fp32" or width == 4 else 2) * weights,
        optimizer=((12 if width == 2 else 8) * weights + _deoscillation(config)) // shards,
        activations=activations,
        head=head,
        quantised_weights=_quantised_weights(config),
        working=working,
        outside_graph=_outside_graph(config, head + working, activations),
        libraries=int(_LIBRARIES_GIB * _GIB) if on_gpu else 0,
    )


def _outside_graph(config: Config, of_evaluation: int, activations: int) -> int:
    """What evaluations need beside a CUDA graph's memory, and steps that are observed or the first of a recipe."""
    if not config.parallelism.cuda_graph:
        return 0
    switches = any(_recipes(config, name)[1:] for name in config.runs.arms)
    return of_evaluation + (activations if switches or config.diagnostics.every_steps else 0)


def _recipes(config: Config, arm: str) -> list[Recipe]:
    """The recipe of an arm, and the one that it switches to, if any."""
    first = config.recipes[config.arms[arm].recipe]
    return [first, *([config.recipes[first.switch_to]] if first.switch_to else [])]


def _deoscillation(config: Config) -> int:
    """Three FP32 numbers a quantised weight, and a fourth during an update."""
    names = {config.arms[arm].recipe for arm in config.runs.arms}
    names |= {config.recipes[name].switch_to for name in names} - {""}
    if not any(config.recipes[name].deoscillation_steps for name in names):
        return 0
    layers = config.model.layers // config.parallelism.pipeline
    return 16 * layers * layer_matrices(config) // config.parallelism.tensor


def local_parameters(config: Config) -> int:
    """Weights of the first pipeline stage on one tensor-parallel rank; tensor parallelism does not divide norms."""
    model, parallel = config.model, config.parallelism
    layers = model.layers // parallel.pipeline
    ends = 2 if parallel.pipeline == 1 else 1  # the embedding, and the head if it is on the same stage
    matrices = layers * layer_matrices(config) + ends * model.vocab_size * model.hidden_size
    norms = (2 * layers + (1 if ends == 2 else 0)) * model.hidden_size
    return matrices // parallel.tensor + norms


def layer_matrices(config: Config) -> int:
    """Weights of the four linears of a layer."""
    model = config.model
    keys = model.hidden_size // model.attention_heads * model.query_groups
    attention = model.hidden_size * (2 * model.hidden_size + 2 * keys)
    return attention + 3 * model.hidden_size * model.ffn_hidden_size


def activation_bytes(config: Config, *, on_gpu: bool) -> int:
    """Tensors that autograd keeps for the layers of one stage and one micro batch."""
    model, parallel = config.model, config.parallelism
    width = 2 if model.dtype == "bf16" else 4
    tokens, layers = config.batch.micro_batch_size * model.sequence_length, model.layers // parallel.pipeline
    hidden, tensor = model.hidden_size, parallel.tensor
    around = tensor if parallel.sequence_parallel else 1  # divides the tensors between the parallel regions
    if parallel.recompute == "full":
        # each layer's input, and the activations of the one layer that is recomputed
        return layers * width * hidden * tokens // around + _layer_activations(config, tokens, on_gpu=on_gpu)
    return layers * _layer_activations(config, tokens, on_gpu=on_gpu)


def _layer_activations(config: Config, tokens: int, *, on_gpu: bool) -> int:
    model, parallel = config.model, config.parallelism
    width = 2 if model.dtype == "bf16" else 4
    hidden, tensor = model.hidden_size, parallel.tensor
    around = tensor if parallel.sequence_parallel else 1
    keys = hidden // model.attention_heads * model.query_groups
    input_bits = _kept_bits(config, "wgrad")
    # inputs of qkv and fc1: under sequence parallelism this rank's part, where the tokens divide into whole blocks
    is_whole = not parallel.sequence_parallel or tokens % (128 * tensor) == 0
    linears: float = 2 * hidden * (input_bits if is_whole else 8 * width) / 8
    # rotated query and key, value, attention's output and its log sums
    inside: float = width * (hidden + 2 * keys + hidden) + 4 * model.attention_heads
    inside += model.ffn_hidden_size * input_bits / 8  # fc2's input
    if parallel.recompute == "fc1":  # its quantised input is kept instead of its output
        linears += hidden * _kept_bits(config, "fprop") / 8 * around  # of all ranks' tokens
    else:
        inside += width * 2 * model.ffn_hidden_size
    # each norm's input, on a CPU as two FP32 tensors
    outside = linears + (2 * width * hidden if on_gpu or width == 4 else 16 * hidden)
    if not on_gpu and config.batch.micro_batch_size > 1:
        # the CPU's attention returns another memory layout, which costs a copy
        inside += hidden * input_bits / 8
    return int(tokens * outside / around + tokens * inside / tensor)


def _kept_bits(config: Config, gemm: str) -> float:
    """Bits of an element of a linear's input, quantised for this GEMM: the most of any arm's recipe."""
    high = 16.0 if config.model.dtype == "bf16" else 32.0
    found = []
    for recipe in (recipe for name in config.runs.arms for recipe in _recipes(config, name)):
        found.append(_KEPT_BITS.get(getattr(recipe, gemm).format, high))
        if recipe.bf16_first_layers or recipe.bf16_last_layers:
            found.append(high)
    return max(found, default=high)


def _quantised_weights(config: Config) -> int:
    """Quantised weights kept between micro batches, in both orientations: the most of any arm."""
    if config.micro_batches == 1 or not config.parallelism.keep_weights:
        return 0
    layers = config.model.layers // config.parallelism.pipeline
    elements = layers * layer_matrices(config) // config.parallelism.tensor
    bits = [
        sum(_weight_bits(config, name, gemm.format) for gemm in (recipe.fprop, recipe.dgrad))
        for name in config.runs.arms
        for recipe in _recipes(config, name)
    ]
    return int(elements * max(bits, default=0.0) / 8)


def _weight_bits(config: Config, arm: str, format: str) -> float:
    """Bits of an element of a kept weight: packed where the accelerator multiplies the format, else BF16 values."""
    if format == "bf16":  # the weight itself
        return 0.0
    known = facts.accelerator(config.system.accelerator)
    if known is None or config.arms[arm].backend in ("emulated", "reference"):
        return 16.0
    # the table has no figures for row-scaled FP8 and MXFP8; AMD's FP8 is OCP's since the chips that have FP4
    is_fp8 = format in ("fp8", "fp8-row")
    units = "fp8" if is_fp8 and known.maker != "AMD" else "mxfp4" if is_fp8 or format == "mxfp8" else format
    return _KEPT_BITS[format] if units in known.dense_tflops else 16.0


def _working(config: Config, tokens: int) -> int:
    """The output of the widest linear, its gradient, and that gradient quantised in both orientations.

    SwiGLU that quantises never writes the gradient: the memory is that of its own output's gradient, half as wide.
    """
    widths = 14 if _is_joint(config) else 16  # bytes for each token and each of the ffn_hidden_size columns
    return widths * tokens * config.model.ffn_hidden_size // config.parallelism.tensor


def _is_joint(config: Config) -> bool:
    """Whether SwiGLU's gradient is quantised where it is computed, in every arm."""
    if not {"swiglu", "quantise"} <= set(config.model.fusions):
        return False
    arms = [config.arms[name] for name in config.runs.arms]
    recipes = [recipe for name in config.runs.arms for recipe in _recipes(config, name)]
    formats = {gemm.format for recipe in recipes for gemm in (recipe.dgrad, recipe.wgrad)}
    exempt = any(
        recipe.bf16_first_layers
        or recipe.bf16_last_layers
        or recipe.wgrad.mean_split
        or any(gemm.rounding == "hardware" for gemm in (recipe.dgrad, recipe.wgrad))
        for recipe in recipes
    )
    return formats <= _JOINT and not exempt and all(arm.transformer_engine == "none" for arm in arms)


def require_fit(config: Config) -> None:
    """Refuse a configuration that cannot fit into the accelerator's memory, if that is known.

    Raises:
        ConfigError: the memory that is needed, the memory that exists, and the nearest configuration that fits.
    """
    if (problem := misfit(config)) is not None:
        raise ConfigError(problem)


def misfit(config: Config) -> str | None:
    """Why the configuration cannot fit, and the nearest one that can; None where it fits or the memory is unknown."""
    have = config.system.accelerator_memory_gib * USABLE
    need = predicted(config).total / _GIB
    if not have or need <= have:
        return None
    nearest = next((text for text, other in variants(config) if predicted(other).total / _GIB <= have), None)
    advice = f"--set {nearest}" if nearest else "more accelerators, or ones with more memory"
    return (
        f"memory: found {need:.0f} GiB needed of {config.system.accelerator_memory_gib:g} GiB; "
        f"allowed: {have:.0f} GiB; nearest that fits: {advice}"
    )


def variants(config: Config) -> Iterator[tuple[str, Config]]:
    """Changes that save memory, beginning with the one that costs the least speed."""
    half = config.batch.micro_batch_size // 2
    changes: list[dict[str, object]] = [{"parallelism.gradient_reduce": "bf16"}]
    kept: dict[str, object] = {"parallelism.keep_weights": False} if _quantised_weights(config) else {}
    changes += [kept] * bool(kept)
    while half >= 1:
        changes += [{"batch.micro_batch_size": half}]
        half //= 2
    smallest = {**changes[-1], **kept}
    if all(config.arms[name].transformer_engine == "none" for name in config.runs.arms):
        changes += [{**smallest, "parallelism.recompute": "fc1"}]
    changes += [{**smallest, "parallelism.recompute": "full"}]
    for tensor in (2, 4, 8):
        if config.parallelism.gpus_per_node % tensor == 0 and config.model.query_groups % tensor == 0:
            changes += [{**changes[-1], "parallelism.tensor": tensor, "parallelism.sequence_parallel": True}]
    for change in changes:
        parts: dict[str, dict[str, object]] = {"batch": {}, "parallelism": {}}
        for path, value in change.items():
            section, _, key = path.partition(".")
            parts[section][key] = value
        changed = dataclasses.replace(
            config,
            batch=dataclasses.replace(config.batch, **parts["batch"]),  # type: ignore[arg-type]
            parallelism=dataclasses.replace(config.parallelism, **parts["parallelism"]),  # type: ignore[arg-type]
        )
        text = " --set ".join(f"{path}={str(value).lower()}" for path, value in change.items())
        yield text, changed
