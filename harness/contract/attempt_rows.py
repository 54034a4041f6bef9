"""Files of an attempt that hold one document: config.json for the training; status.json and proof.json from it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from harness.contract import file_names, files, typed_json
from harness.contract.build import ConfigProblem, build
from harness.contract.config import Config, to_mapping
from harness.contract.ending import Ending, Reason
from harness.contract.typed_json import RowError

ENDED = "ended"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunIdentity:
    """The run and campaign that an attempt belongs to; `campaign` is the name of the campaign's directory."""

    arm: str = ""
    index: int = 0
    seed: int = 0
    campaign: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptConfig:
    """config.json: everything that a training receives. Tools that need only the configuration leave the run empty."""

    config: Config
    run: RunIdentity = dataclasses.field(default_factory=RunIdentity)


def write_config(path: Path, told: AttemptConfig) -> None:
    files.replace_json(path, {"config": to_mapping(told.config), "run": typed_json.to_plain(told.run)})


def read_config(path: Path) -> AttemptConfig:
    """Read what a training receives.

    Raises:
        OSError: no such file.
        ConfigProblem: another kind of file, or a configuration of another version, which would train something else.
    """
    document = files.read_json(path)
    if not isinstance(document, dict) or "config" not in document:
        raise ConfigProblem("config", "nothing", "the configuration of a run")
    return AttemptConfig(config=build(Config, document["config"], ""), run=_identity(document.get("run")))


def read_identity(path: Path) -> RunIdentity:
    """Read which run a config.json belongs to, even if another version wrote its configuration."""
    document = files.read_json(path)
    return _identity(document.get("run") if isinstance(document, dict) else None)


def _identity(value: object) -> RunIdentity:
    try:
        return typed_json.from_plain(RunIdentity, value)
    except RowError:
        return RunIdentity()


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """status.json: the last status that a training wrote.

    Args:
        state: starting | warmup | resuming | indexing | training | evaluating | saving | ended.
        samples: sequences trained on; `step` optimizer steps done.
        outcome: success | aborted, when it has ended.
        memory_bytes: peak memory of the first rank: of its accelerator; on a CPU, of its process.
    """

    state: str = "starting"
    samples: int = 0
    outcome: str | None = None
    reason: Reason | None = None
    message: str | None = None
    step: int = 0
    max_steps: int | None = None
    memory_bytes: int | None = None

    @property
    def ending(self) -> Ending | None:
        """How the training ended; None while it has not written that."""
        if self.state != ENDED or self.reason is None or self.outcome != self.reason.outcome:
            return None
        return Ending(reason=self.reason, message=self.message)

    def ended(self, ending: Ending) -> Status:
        """The last status of a training with this ending."""
        said = {"outcome": ending.outcome, "reason": ending.reason, "message": ending.message}
        return dataclasses.replace(self, state=ENDED, **said)  # type: ignore[arg-type]


def write_status(attempt: Path, status: Status) -> None:
    """Write the status.

    The final one is synced to disk; earlier ones are not, because a timed run must not wait for disks.
    """
    files.replace_json(attempt / file_names.STATUS, typed_json.to_plain(status), sync=status.state == ENDED)


def read_status(attempt: Path) -> Status | None:
    """Read the status; None before the training has written one, or where the file is incomplete."""
    return typed_json.read(Status, attempt / file_names.STATUS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvenGemm:
    """What ran as one GEMM of one layer, with its count.

    Args:
        gemm: fprop | dgrad | wgrad.
        rounding: nearest, or stochastic and the operands.
        prescale: factor of the left operand before it is quantised; block_rows: number of rows that share a scale.
        backend: native | emulated | reference.
        calls: number of calls on one rank since step `from_step`.
    """

    layer: str
    gemm: str
    format: str
    transform: str
    scale_rule: str | None = None
    rounding: str = "nearest"
    prescale: float = 1.0
    block_rows: int = 1
    gain: float = 1.0
    backend: str
    engine: str | None = None
    calls: int = 0
    from_step: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineProbe:
    """Trial of one engine or attention kernel on this device: a small input, compared with the specification.

    Args:
        what: format, elements and transform; or `attention`.
        failure: the exception, or how its numbers differ; empty where it is right.
    """

    engine: str
    what: str
    failure: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayedGraph:
    """A CUDA graph of rank 0 that trained steps of the run.

    Args:
        from_step: the first step of its recipe.
        products: GEMMs that one replay multiplies, counted by Python while it was captured.
        replays: steps that it trained.
        kernels: name of each kernel -> number of its nodes, read from the captured graph.
        unread: why `kernels` is empty; empty text where it is not.
    """

    from_step: int
    micro_batches: int
    products: int
    replays: int
    kernels: dict[str, int]
    unread: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """proof.json: what ran as every GEMM of a run.

    Args:
        verified: the counts are those that recipe and steps demand.
        attention, norm: the kernels or libraries that compute them; None without such a module.
        fusions: the entries of model.fusions that ran in fused kernels.
        optimizer: the library of the AdamW that ran, and its loop over parameters; None without updates.
        probes: the engines that were tried before the first step; those with a failure were not used.
        tuned_products: results of `kernels bench --tune` by which torch chose its kernels; 0 without (CUDA has none).
        graphs: the CUDA graphs that were replayed; their products are in `gemms`.
        snapped: how often de-oscillation set an element of a weight to its quantised value; None where it did not run.
    """

    recipe: str
    linears: int
    gemms: tuple[ProvenGemm, ...]
    verified: bool
    attention: str | None = None
    norm: str | None = None
    fusions: tuple[str, ...] = ()
    optimizer: str | None = None
    probes: tuple[EngineProbe, ...] = ()
    snapped: int | None = None
    tuned_products: int = 0
    graphs: tuple[ReplayedGraph, ...] = ()


def write_proof(attempt: Path, proof: Proof) -> None:
    files.replace_json(attempt / file_names.PROOF, typed_json.to_plain(proof))


def read_proof(attempt: Path) -> Proof | None:
    """Read the proof; None where the run left none, or the file has another format."""
    return typed_json.read(Proof, attempt / file_names.PROOF)
