"""The configuration: frozen dataclasses, built once and passed down as values. submission imports this file too."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.contract.benchmark import Benchmark


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """The submitter and the system, for the log and the system description."""

    submitter: str  # submission_org
    name: str  # submission_platform
    division: Literal["closed", "open"] = "closed"
    status: Literal["onprem", "cloud", "preview", "research"] = "onprem"
    accelerator: str = ""  # model of one accelerator, for plan and the system description
    # as its driver reports it; 0: unknown, then no configuration is refused for memory
    accelerator_memory_gib: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """Llama architecture: grouped-query attention, SwiGLU, RMSNorm, RoPE with Llama 3.1 scaling, untied head."""

    layers: int
    hidden_size: int
    ffn_hidden_size: int
    attention_heads: int
    query_groups: int
    vocab_size: int
    sequence_length: int  # tokens
    norm_epsilon: float = 1e-5
    rope_base: int = 500_000
    rope_scaling_factor: float = 8.0
    init_std: float = 0.02
    dtype: Literal["bf16", "fp32"] = "bf16"
    attention: Literal["torch", "flash", "cudnn", "efficient", "math", "transformer_engine"] = "torch"
    norm: Literal["torch", "transformer_engine"] = "torch"
    # kernels that do in one launch what Megatron does in several, between the products; quantise: swiglu and norm
    # quantise for the products around them
    fusions: tuple[Literal["rope", "swiglu", "cross_entropy", "norm", "quantise"], ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights, computed from the architecture."""
        head = self.hidden_size // self.attention_heads
        attention = self.hidden_size * (2 * self.hidden_size + 2 * head * self.query_groups)
        layer = attention + 3 * self.hidden_size * self.ffn_hidden_size + 2 * self.hidden_size
        return self.layers * layer + 2 * self.vocab_size * self.hidden_size + self.hidden_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Location of the tokens: `<directory>/<prefix>.bin` and `.idx`, Megatron's indexed format."""

    directory: str
    train_prefix: str
    valid_prefix: str
    corpus: Literal[
        "python", "machine", "c4"
    ]  # built here, from the standard library or from the machine's files; or published


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    global_batch_size: int  # sequences per optimizer step
    micro_batch_size: int  # sequences per forward pass and rank


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Linear warmup, then cosine decay to end_lr_fraction of base_lr."""

    base_lr: float
    warmup_steps: int  # optimizer steps, not samples
    max_steps: int
    end_lr_fraction: float = 0.1

    @property
    def decay_steps(self) -> int:
        return self.max_steps - self.warmup_steps

    @property
    def end_lr(self) -> float:
        return self.base_lr * self.end_lr_fraction


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimizer:
    """AdamW; the benchmark fixes its numbers."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-5
    weight_decay: float = 0.1
    gradient_clip_norm: float = 1.0
    # library and loop of the update; a CPU has no foreach kernels, so torch updates one parameter at a time
    implementation: Literal["foreach", "fused", "transformer_engine"] = "foreach"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    interval_samples: int  # training sequences; steps are derived, never configured
    sequences: int  # the first N validation sequences, never shuffled
    target_log_perplexity: float  # nats per token


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallelism:
    nodes: int = 1
    gpus_per_node: int = 1  # ranks per node; on a machine without GPU: CPU processes
    tensor: int = 1
    pipeline: int = 1
    virtual_pipeline: int = 1  # interleaved stages on each rank
    sequence_parallel: bool = False
    distributed_optimizer: bool = True
    overlap: bool = False  # gradient reduction and parameter gather overlap with compute
    gradient_reduce: Literal["fp32", "bf16"] = "fp32"  # type of the gradient buffer and of its reduction
    average_in_collective: bool = False  # gradients are averaged by the reduction, not scaled before it
    # full: layers run forward twice and keep no activations; fc1: its product runs twice and keeps no output
    recompute: Literal["none", "fc1", "full"] = "none"
    # quantised weights stay from micro batch to micro batch: packed where the hardware multiplies them, else as BF16
    keep_weights: bool = True
    # micro batches of a step are captured once and replayed as one launch; on GPUs alone
    cuda_graph: bool = False
    threads_per_rank: int = 0  # CPU threads; 0: cores divided by ranks

    @property
    def world_size(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def data(self) -> int:
        """Data-parallel size: number of ranks that hold a copy of the same weights."""
        return self.world_size // (self.tensor * self.pipeline)


@dataclass(frozen=True, kw_only=True, slots=True)
class Warmup:
    """Steps on synthetic data before run_start; afterwards all state is restored (training_rules, Run Results)."""

    train_steps: int = 2
    eval_steps: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """Checkpoints of a development run; the closed division allows none."""

    every_steps: int = 0  # optimizer steps between two checkpoints; 0: none
    keep: int = 2  # number of checkpoints of a run that are kept, the last ones
    directory: str = ""  # "": checkpoints/ in the attempt's directory
    resume: str = ""  # directory of the checkpoint to start from


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchdog:
    """When a training that hangs is ended, and when a rank counts as slow; docs/watchdog.md."""

    init_s: float = (
        1200.0  # seconds until the first step is done; replaces the next two limits until then; 0: no limit
    )
    hang_s: float = 300.0  # seconds without a forward pass, a step or an evaluation; 0: no limit
    silence_s: float = 60.0  # seconds without a heartbeat of a rank's process; 0: no limit
    # time of a rank's forward passes divided by the median of like ranks; 0: no rank counts as slow
    straggler_ratio: float = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    count: int  # runs per arm
    arms: tuple[str, ...]  # the last one is the baseline
    output: str = "runs"
    upload: tuple[
        str, ...
    ] = ()  # kind and place to upload to after the last run has stopped; empty: no upload
    paired_seeds: bool = True  # run i of every arm has the same seed: same initialisation, same data order
    seed: int | None = None  # None: drawn from the system's randomness; otherwise run i takes seed + i


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmFormat:
    """Format and operand transforms of one GEMM; kernels.recipe turns them into the code that runs."""

    format: Literal["bf16", "fp8", "fp8-row", "mxfp8", "mxfp4", "nvfp4"]
    # how a block's scale is chosen; nvfp4: even, rceil or four-six
    scale_rule: Literal["floor", "even", "rceil", "ceil", "least-error", "four-six"] = "even"
    hadamard: Literal[0, 16, 32, 64, 128] = 0  # for block formats: points of the transform, 0 for none
    signs: Literal["none", "fixed", "step"] = (
        "none"  # random signs of the transform: drawn once, or for every step
    )
    signs_per_block: bool = False  # every group of the transform's points has its own signs
    stochastic: Literal["none", "gradients", "all"] = "none"  # which operands are rounded stochastically
    prescale: float = 1.0  # elements are multiplied by this before they are quantised
    weight_rows: Literal[1, 16, 32] = (
        1  # rows that share a scale in a weight; 32 (nvfp4: 16) makes square blocks
    )
    gain: float = 1.0  # factor of the product
    mean_split: bool = (
        False  # fprop, wgrad: X's mean over tokens is multiplied in high precision, the rest quantised
    )
    tensor_scale: Literal["amax", "torchao", "none"] = "amax"  # nvfp4: FP32 scale of the tensor
    # of the operands that `stochastic` names; hardware: mxfp4 and nvfp4; the last two: nvfp4 with random signs
    rounding: Literal["stochastic", "hardware", "ms-eden", "ms-eden-weighted"] = "stochastic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    fprop: GemmFormat
    dgrad: GemmFormat
    wgrad: GemmFormat
    bf16_first_layers: int = 0  # number of transformer layers in BF16, counted from the input
    bf16_last_layers: int = 0  # number of transformer layers in BF16, counted from the output
    switch_step: int = 0  # optimizer steps after which another recipe takes over; 0: never
    switch_to: str = ""  # that recipe's name under `recipes`
    # optimizer steps of a window at whose end weights that oscillate become their quantised value; 0: never
    deoscillation_steps: int = 0
    deoscillation_ratio: float = (
        4.0  # movement of the quantised weight to that of the weight, from which it oscillates
    )
    deoscillation_start: int = 0  # optimizer steps before the first window


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    recipe: str  # a name under `recipes`
    # the engines that may multiply; auto: the best that is available
    backend: Literal["auto", "native", "emulated", "reference"] = "auto"
    # use Transformer Engine's FP8 linears with this scaling instead of ours
    transformer_engine: Literal["none", "delayed", "tensorwise", "mxfp8"] = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    master_addr: str = "127.0.0.1"
    master_port: int = 0  # 0: a free port of this machine (one node only)
    node_rank: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """Sampling of this machine's power during a run. It informs and is not an MLPerf Power measurement."""

    sample_s: float = 0.0  # seconds between samples; 0: none


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnostics:
    """Measurement of what quantising does to the operands of every GEMM, on some steps (docs/diagnostics.md)."""

    every_steps: int = 0  # optimizer steps between two measurements; 0: none
    consecutive_steps: int = 1  # steps per measurement; 2 give the correlation of the errors between steps
    rows: int = 1024  # the largest number of rows of an operand or product that is measured; 0: all

    def looks_at(self, step: int) -> bool:
        """Whether this optimizer step, counted from 1, is measured."""
        return step >= self.every_steps > 0 and step % self.every_steps < self.consecutive_steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """One resolved profile."""

    profile: str  # a name under `profiles` of benchmark.yaml
    benchmark: Benchmark  # the benchmark that the log names; benchmark.yaml and config.json hold its name
    system: System
    model: Model
    data: Data
    batch: Batch
    schedule: Schedule
    optimizer: Optimizer
    evaluation: Evaluation
    parallelism: Parallelism
    warmup: Warmup
    runs: Runs
    launch: Launch
    arms: Mapping[str, Arm]
    recipes: Mapping[str, Recipe]
    watchdog: Watchdog = Watchdog()
    power: Power = Power()
    checkpoint: Checkpoint = Checkpoint()
    diagnostics: Diagnostics = Diagnostics()

    @property
    def closed_benchmark(self) -> bool:
        """Whether the closed division's rules apply: the division is closed and the benchmark is not scaled."""
        return not self.benchmark.is_scaled and self.system.division == "closed"

    @property
    def micro_batches(self) -> int:
        """Gradient accumulation steps: forward passes per optimizer step and rank."""
        return self.batch.global_batch_size // (self.batch.micro_batch_size * self.parallelism.data)

    @property
    def eval_interval_steps(self) -> int:
        """ceil(interval / GBS) optimizer steps (training_rules, llama31_8b evaluation cadence)."""
        return -(-self.evaluation.interval_samples // self.batch.global_batch_size)

    @property
    def eval_interval_samples(self) -> int:
        return self.eval_interval_steps * self.batch.global_batch_size

    @property
    def train_samples(self) -> int:
        """Number of training sequences for which the data set is built."""
        return self.schedule.max_steps * self.batch.global_batch_size


def to_mapping(config: Config) -> dict[str, Any]:
    """Plain dictionaries and lists, as in config.json."""
    return dataclasses.asdict(config) | {"benchmark": config.benchmark.name}


def fixed_by_checkpoint(config: Config) -> dict[str, Any]:
    """Dotted path -> value of everything that a resumed run shares with the one before.

    Layout, recipe and kernels may differ, so fusions and torch's implementations of AdamW are left out.
    """
    sections = {
        name: dataclasses.asdict(getattr(config, name)) for name in ("model", "schedule", "optimizer")
    }
    fixed = {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}
    del fixed["model.fusions"]
    if config.optimizer.implementation != "transformer_engine":  # its state has another form
        del fixed["optimizer.implementation"]
    fixed["data.corpus"] = config.data.corpus
    fixed["batch.global_batch_size"] = config.batch.global_batch_size
    fixed["parallelism.distributed_optimizer"] = config.parallelism.distributed_optimizer
    return fixed


def corpus_fingerprint(data: Data) -> str:
    """Size of the training tokens and SHA-256 of their first MiB, which quickly tell one corpus from another."""
    path = Path(data.directory) / f"{data.train_prefix}.bin"
    with path.open("rb") as file:
        return f"{path.stat().st_size}-{hashlib.sha256(file.read(1 << 20)).hexdigest()[:16]}"
