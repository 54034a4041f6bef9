"""Estimates the time to train on named systems, and how reliable each estimate is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from harness.analysis import footnotes, public_index
from harness.analysis.footnotes import Citation
from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.base.text import fits, printable
from harness.projection import memory_need, systems
from harness.projection.step_time import Accelerator, Setup, forecast
from harness.projection.systems import Measured

DEFAULT = ("MI355X", "MI350X", "MI300X", "B200", "B300", "GB200", "GB300", "H200", "H100")
GBS = 32  # the default global batch size
_MAX_TENSOR = 8
NOTICES = (
    "modelled: every time but those of the column 'public', which are olympic means of published logs",
    "no projection is a result; results not verified by MLCommons Association",
)

_LEFT_OUT = (
    "evaluation",
    "TPxCPxPP",
    "samples to",
    "GiB",
    "step",
    "samples/s",
    "GBS",
    "linear",
)  # if narrow, in order


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicRun:
    """A published system like the projected setup; means over its runs.

    Args:
        differs: what is not as in the projected setup, such as `batch 16`; empty where it ran just this setup.
    """

    system: str
    hardware: str
    precision: str
    global_batch_size: int
    time_to_train_min: float
    step_s: float
    samples_to_target: float
    differs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Projection:
    """The projection of one setup; the fields are the keys of `project --json`, in order.

    Args:
        precision: precision of the linear layers.
        parts_s: parts of the step time, which add up to step_s.
        evaluation_share: share of the time to train, 0 to 1.
        error_pct: the largest error of nine of ten held-out systems; error_from says which systems.
        memory_gib: need of one accelerator by the memory model of `plan`; memory_has_gib: what it has.
        public: published systems with this accelerator, count and precision, the most alike first.
        nearest: the published system that is most like the setup.
        flags: properties of the setup that no public run has, and a memory that does not suffice.
    """

    system: str
    precision: str
    attention: str
    global_batch_size: int
    tensor: int
    context: int
    pipeline: int
    step_s: float
    parts_s: Mapping[str, float]
    samples_per_s: float
    evaluation_s: float
    evaluation_share: float
    samples_to_target: float
    samples_at_stop: float
    time_to_train_min: float
    error_pct: float
    error_from: str
    memory_gib: float
    memory_has_gib: float | None
    public: Sequence[PublicRun]
    nearest: PublicRun
    flags: Sequence[str]


def setup(
    name: str,
    *,
    global_batch_size: int,
    precision: str | None,
    attention: str | None,
    tensor: int,
    context: int | None,
    pipeline: int,
) -> Setup:
    """The setup to project, for a system such as `8xMI355X`.

    Args:
        precision: precision of the linear layers; None for the narrowest that the accelerator computes natively.
        attention: precision of the attention products; None for that of the public runs.
        context: context parallel size; None for the size that the batch needs.

    Raises:
        UsageError: an unknown system, or a parallel split that cannot run.
    """
    board, count = parse(name)
    precision = precision or next(one for one in ("mxfp4", "nvfp4", "fp8") if _favoured(board, one))
    attention = attention or systems.attention_of(precision)
    for one in (precision, attention):
        if one not in board.tflops:
            raise UsageError(f"{board.name}: found precision {one}; allowed: {', '.join(board.tflops)}")
    fixed = tensor * pipeline
    made = Setup(
        accelerator=board,
        accelerators=count,
        global_batch_size=global_batch_size,
        precision=precision,
        attention=attention,
        tensor=tensor,
        context=context if context is not None else max(1, count // max(1, fixed * global_batch_size)),
        pipeline=pipeline,
        interval_samples=-(-BENCHMARK.evaluation_interval_samples // max(1, global_batch_size))
        * global_batch_size,
    )
    _require(made)
    return made


def _favoured(board: Accelerator, precision: str) -> bool:
    """Whether a precision is the usual one: on NVIDIA's accelerators every public four-bit run uses NVFP4."""
    return precision in board.tflops and not (precision == "mxfp4" and "nvfp4" in board.tflops)


def parse(name: str) -> tuple[Accelerator, int]:
    """`8xMI355X`: an accelerator and its number.

    Raises:
        UsageError: the name has another form, or the accelerator is unknown.
    """
    known = systems.accelerators()
    found = re.fullmatch(r"([1-9]\d{0,4}) ?x ?(\w+)", name.strip(), re.IGNORECASE)
    board = known.get(found[2].upper()) if found else None
    if found is None:
        raise UsageError(
            f"project: found {printable(name)!r}; allowed: <1 .. 99999>x<accelerator>, of {', '.join(known)}"
        )
    if board is None:
        raise UsageError(f"project: {printable(name)}: {unknown_name('accelerator', found[2], known)}")
    return board, int(found[1])


def _require(setup: Setup) -> None:
    """Refuse a parallel split that cannot run.

    Raises:
        UsageError: the split cannot run, or the batch size has no reference point.
    """
    sizes = {"tensor": setup.tensor, "context": setup.context, "pipeline": setup.pipeline}
    for name, size in sizes.items():
        if size < 1 or (name == "tensor" and size > _MAX_TENSOR):
            most = f" .. {_MAX_TENSOR}" if name == "tensor" else " and more"
            raise UsageError(f"--{name}: found {size}; allowed: 1{most}")
    try:
        reference_points.reference(setup.global_batch_size)
    except reference_points.RcpError as error:
        raise UsageError(f"--gbs: {error}") from None
    group = setup.tensor * setup.context * setup.pipeline
    if setup.accelerators % group:
        raise UsageError(
            f"{setup.accelerators} accelerators are not a multiple of tensor * context * pipeline = {group}; "
            "allowed: sizes whose product divides the accelerators"
        )
    if setup.global_batch_size % setup.data_parallel:
        raise UsageError(
            f"--gbs: found {setup.global_batch_size}; allowed: multiples of {setup.data_parallel}, "
            f"the data parallel size of {setup.accelerators}x{setup.accelerator.name} "
            "(accelerators / tensor / context / pipeline)"
        )


def project(setup: Setup) -> Projection:
    """The projection of one setup."""
    fitted = systems.fitted()
    made = forecast(setup, systems.load(), fitted.constants)
    rows = systems.measurements(fitted.measured)
    fold, flags = confidence(setup, rows)
    need, have = memory_need.gib(setup), memory_need.has_gib(setup)
    if not memory_need.fits(need, have):
        flags = [
            *flags,
            f"needs {need:.0f} GiB of {have:.0f} GiB by the memory model of plan; split the model",
        ]
    alike = sorted(rows, key=lambda row: _distance(row.setup, setup))
    return Projection(
        system=f"{setup.accelerators}x{setup.accelerator.name}",
        precision=setup.precision,
        attention=setup.attention,
        global_batch_size=setup.global_batch_size,
        tensor=setup.tensor,
        context=setup.context,
        pipeline=setup.pipeline,
        step_s=made.step_s,
        parts_s=made.parts_s,
        samples_per_s=setup.global_batch_size / made.step_s,
        evaluation_s=made.evaluation_s,
        evaluation_share=made.evaluations * made.evaluation_s / made.time_s,
        samples_to_target=made.samples_to_target,
        samples_at_stop=made.samples_at_stop,
        time_to_train_min=made.time_s / 60,
        error_pct=fitted.validation[fold].p90_pct,
        error_from=f"nine of ten public systems, each predicted without its {fold}",
        memory_gib=round(need, 1),
        memory_has_gib=have,
        public=[_public(row, setup) for row in alike if _same_machine(row.setup, setup)],
        nearest=_public(alike[0], setup),
        flags=flags,
    )


def _public(row: Measured, setup: Setup) -> PublicRun:
    ran = row.setup
    return PublicRun(
        system=row.key,
        hardware=f"{ran.accelerators}x{ran.accelerator.name}",
        precision=ran.precision,
        global_batch_size=ran.global_batch_size,
        time_to_train_min=row.minutes,
        step_s=row.step_s,
        samples_to_target=row.samples,
        differs=_differs(ran, setup),
    )


def _differs(ran: Setup, setup: Setup) -> tuple[str, ...]:
    split = [(one.tensor, one.context, one.pipeline) for one in (ran, setup)]
    texts = (
        (ran.accelerator.name != setup.accelerator.name, ran.accelerator.name),
        (ran.accelerators != setup.accelerators, f"{ran.accelerators} accelerators"),
        (ran.precision != setup.precision, ran.precision),
        (ran.global_batch_size != setup.global_batch_size, f"batch {ran.global_batch_size}"),
        (split[0] != split[1], "TPxCPxPP {}x{}x{}".format(*split[0])),
    )
    return tuple(text for differs, text in texts if differs)


def _same_machine(ran: Setup, setup: Setup) -> bool:
    keys = ("accelerator", "accelerators", "precision")
    return all(getattr(ran, key) == getattr(setup, key) for key in keys)


def _distance(ran: Setup, setup: Setup) -> tuple[float, ...]:
    """How unlike two setups are: first maker and accelerator, then precision, count, batch size and split."""
    return (
        float(ran.accelerator.maker != setup.accelerator.maker),
        float(ran.accelerator.name != setup.accelerator.name),
        float(ran.precision != setup.precision),
        abs(math.log(ran.accelerators / setup.accelerators)),
        abs(math.log(ran.global_batch_size / setup.global_batch_size)),
        float(len(_differs(ran, setup))),
    )


def confidence(setup: Setup, rows: Sequence[Measured]) -> tuple[str, list[str]]:
    """Which validation applies to a setup, and every property of it that no public run has."""
    name = setup.accelerator.name
    own = [row.setup for row in rows if row.setup.accelerator.name == name]
    unseen, beyond = [], []
    if not own:
        unseen.append(f"no public run on {name}")
    elif not any(one.precision == setup.precision for one in own):
        unseen.append(f"no public run of {setup.precision} on {name}")
    if setup.precision == "bf16":
        beyond.append("no public run with linear layers in bf16")
    if setup.precision == "mxfp4" and "nvfp4" in setup.accelerator.tflops:
        beyond.append("no public MXFP4 run on NVIDIA's accelerators")
    if setup.pipeline > 1:
        beyond.append("no public run uses a pipeline")
    if setup.tensor > max(row.setup.tensor for row in rows):
        beyond.append(f"no public run with tensor parallel size {setup.tensor}")
    most = max((one.accelerators for one in own), default=setup.accelerator.domain)
    if setup.accelerators > most:
        beyond.append(f"no public run on more than {most} {name}")
    if not unseen and not beyond and not any(_same_machine(one, setup) for one in own):
        unseen.append(f"no public run of {setup.precision} on {setup.accelerators} {name}")
    sizes = sorted({row.setup.global_batch_size for row in rows})
    if setup.global_batch_size not in sizes:
        public = ", ".join(map(str, sizes))
        unseen.append(f"no public run at batch size {setup.global_batch_size} (there are {public})")
    fold = "maker" if beyond else "accelerator" if unseen else "submitter"
    return fold, unseen + beyond


def table(rows: Sequence[Projection], left_out: Sequence[str] = ()) -> Table:
    """Projections as a table, one row each, without the columns that are left out."""
    table = Table(box=None, pad_edge=False, title="time to train, projected", title_justify="left")
    heads = (
        "system",
        "linear",
        "GBS",
        "TPxCPxPP",
        "step ms",
        "samples/s",
        "GiB",
        "evaluation",
        f"samples to {BENCHMARK.target_log_perplexity}",
    )
    kept = [
        (place, head)
        for place, head in enumerate((*heads, "minutes", "public"))
        if not head.startswith(tuple(left_out))
    ]
    for _, head in kept:
        table.add_column(head, justify="left" if head in ("system", "linear") else "right", no_wrap=True)
    for row in rows:
        found = cells(row)
        table.add_row(*(found[place] for place, _ in kept))
    return table


def cells(row: Projection) -> list[str]:
    """The row of a projection in the table."""
    return [
        row.system,
        row.precision,
        str(row.global_batch_size),
        f"{row.tensor}x{row.context}x{row.pipeline}",
        f"{1000 * row.step_s:.0f}",
        f"{row.samples_per_s:.1f}",
        f"{row.memory_gib:.0f}",
        f"{row.evaluation_share:.1%}",
        f"{row.samples_to_target:,.0f}",
        f"{row.time_to_train_min:.1f} +-{row.error_pct:.0f} %",
        public_text(row),
    ]


def public_text(row: Projection) -> str:
    """Minutes of public systems with this setup, else of those with another batch size or split; a dash if none."""
    exact = [one for one in row.public if not one.differs]
    shown = exact or [one for one in row.public if one.differs == row.public[0].differs]
    measured = sorted(one.time_to_train_min for one in shown)
    if not measured:
        return "–"
    low, high = f"{measured[0]:.1f}", f"{measured[-1]:.1f}"
    text = low if low == high else f"{low}-{high}"
    return f"{text} ({', '.join(shown[0].differs)})" if shown[0].differs else text


def show(rows: Sequence[Projection], console: Console) -> None:
    """Print the table, what no public run has, and the notices; a narrow console gets fewer columns, none cut."""
    console.print(
        next(
            (
                found
                for count in range(len(_LEFT_OUT))
                if fits(found := table(rows, _LEFT_OUT[:count]), console)
            ),
            table(rows, _LEFT_OUT),
        )
    )
    for row in rows:
        for flag in row.flags:
            console.print(f"note: {row.system}: {flag}", highlight=False, markup=False, soft_wrap=True)
    for notice in notices(rows):
        console.print(notice, highlight=False, markup=False, soft_wrap=True)


def notices(rows: Sequence[Projection]) -> list[str]:
    """What must stand beside projections and the public results that they are compared with."""
    named = {one.system for row in rows for one in (row.nearest, *row.public)}
    cited = [
        Citation(
            round=one.round,
            division=one.point("submission_division"),
            origin=one.source.origin,
            retrieved=one.source.retrieved,
        )
        for one in public_index.read(wanted=lambda entry: _key(entry) in named)
    ]
    return [*NOTICES, *footnotes.lines(cited)]


def _key(entry: object) -> str:
    assert isinstance(entry, dict)
    return f"{entry['round']}/{entry['org']}/{entry['system']}"
