"""Steps that test the kernels: comparison with the specification, divided among processes, and relative speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.base.text import plural, printable
from harness.contract import environment
from harness.contract.qualify_rows import ComparedRow, SpeedRow
from harness.machine import facts
from harness.qualify import bench as benches
from harness.qualify import children
from harness.qualify.answer import Claim, Table, Verdict
from harness.qualify.bench import Bench
from harness.qualify.children import Child, Ended
from harness.qualify.node_steps import NO_GPU

_MOST_PROCESSES = 8  # each process holds a context on the GPU, about half a GiB
_LONGEST = 400
# shares of the data sheet's rates; a lower share means that something slows this GPU down
_COPY_SHARE, _MATRIX_SHARE = 0.7, 0.5
_GROUPS = {"quantise": "of the copy's bytes per second", "product": "of the BF16 matrix rate"}


def verify(bench: Bench) -> Iterator[Claim | Table]:
    """Compare every kernel with the specification, element by element."""
    count = min(environment.cores(), _MOST_PROCESSES)
    device = "cuda" if bench.on_gpu else "cpu"
    asked = [
        Child(
            name=f"slice_{place}",
            command=benches.module(
                "kernels.tools.verify_slices", "--slice", place, "--of", count, "--device", device
            ),
            environment=bench.kernels_environment(place),
        )
        for place in range(count)
    ]
    ended = bench.run("verify", *asked)
    rows = list(benches.rows(ComparedRow, ended))
    whole = all(one.code == 0 for one in ended)
    for twin in dict.fromkeys(row.twin for row in rows):
        yield _compared(twin, [row for row in rows if row.twin == twin], whole=whole, on_gpu=bench.on_gpu)
    for failure in children.failures(ended):
        found = bench.shown(failure)
        yield Claim(
            claim="the comparison of the kernels runs to its end", verdict=Verdict.FAILED, found=found
        )
    if not whole:
        told = f"{len(rows)} of {rows[0].of} cases" if rows else "nothing"
        found = f"{told} compared before the time ended; the submitted recipe's came first"
        yield Claim(
            claim="every kernel was compared", verdict=Verdict.OPEN, found=found, fix="more --minutes"
        )
    if not bench.on_gpu:
        yield Claim(claim="GPU kernels equal the specification", verdict=Verdict.OPEN, found=NO_GPU)


def _compared(twin: str, rows: Sequence[ComparedRow], *, whole: bool, on_gpu: bool) -> Claim:
    where = "" if on_gpu or not twin.startswith("triton") else " in Triton's interpreter"
    claim = f"{twin}{where} equals the specification"
    wrong = [row for row in rows if row.difference is not None]
    elements, moved = sum(row.elements for row in rows), sum(row.moved for row in rows)
    if wrong:
        first = wrong[0]
        found = f"{len(wrong)} of {len(rows)} differ, first {first.what}: {first.difference}"
        fix = "report it with this page; arms that do not need it can be trained"
        return Claim(claim=claim, verdict=Verdict.FAILED, found=printable(found, _LONGEST), fix=fix)
    found = f"{plural(len(rows), 'case')}, {elements / 1e6:.1f} M elements equal"
    found += f", {moved} elements differ by the order of a sum" if moved else ""
    return Claim(claim=claim, verdict=Verdict.PROVEN if whole else Verdict.OPEN, found=found)


def speed(bench: Bench) -> Iterator[Claim | Table]:
    """Measure quantisers and products, as shares of the rates at which the same process copies and multiplies."""
    command = benches.module("kernels.tools.speed_shares", "--device", "cuda" if bench.on_gpu else "cpu")
    (ended,) = bench.run(
        "speed", Child(name="speed", command=command, environment=bench.kernels_environment())
    )
    rows = list(benches.rows(SpeedRow, [ended]))
    rates = {row.group: row for row in rows if row.group in ("copy", "matrix")}
    for group, of in _GROUPS.items():
        shares = tuple(_cells(row) for row in rows if row.group == group)
        if shares:
            yield Table(title=f"{group}: share {of}", head=("what", "time", "rate", "share"), rows=shares)
    if rates:
        own = tuple(_cells(row)[:3] for row in rates.values())
        yield Table(title="the reference rates", head=("what", "time", "rate"), rows=own)
    yield from _sheet(bench, rates.get("copy"), rates.get("matrix"))
    yield from _ended(bench, ended, len(rows))


def _cells(row: SpeedRow) -> tuple[str, ...]:
    rate = _rate((row.flops or row.moved_bytes) / row.time_s, "FLOP/s" if row.flops else "B/s")
    share = "" if row.share is None else f"{100 * row.share:.0f} %"
    return row.what, f"{row.time_s * 1e6:,.0f} us", rate, share


def _rate(value: float, unit: str) -> str:
    """`4.21 TB/s`; for a CPU in G."""
    return f"{value / 1e12:,.2f} T{unit}" if value >= 1e12 else f"{value / 1e9:,.1f} G{unit}"


def _sheet(bench: Bench, copy: SpeedRow | None, matrix: SpeedRow | None) -> Iterator[Claim]:
    known = facts.accelerator(bench.accelerator) if bench.accelerator else None
    for what, row, peak, least in (
        ("copies", copy, known.bandwidth_gb_s * 1e9 if known and known.bandwidth_gb_s else None, _COPY_SHARE),
        ("multiplies BF16", matrix, known.dense_tflops["bf16"] * 1e12 if known else None, _MATRIX_SHARE),
    ):
        claim = f"the GPU {what} at a good share of its data sheet's rate"
        if row is None or peak is None:
            why = (
                "no answer" if bench.on_gpu and row is None else "harness/machine/facts.yaml does not know it"
            )
            yield Claim(claim=claim, verdict=Verdict.OPEN, found=why if bench.on_gpu else NO_GPU)
            continue
        share = (row.flops or row.moved_bytes) / row.time_s / peak
        good = share >= least
        yield Claim(
            claim=claim,
            verdict=Verdict.PROVEN if good else Verdict.FAILED,
            found=f"{100 * share:.0f} %",
            expected=f"at least {100 * least:.0f} %",
            fix="" if good else "check clocks, power limit and other processes (doctor's gpu lines)",
        )


def _ended(bench: Bench, ended: Ended, rows: int) -> Iterator[Claim]:
    claim = "every speed was measured"
    if ended.code == 0:
        yield Claim(claim=claim, verdict=Verdict.PROVEN, found=f"{rows} measurements in one process")
    elif ended.code is None:
        yield Claim(claim=claim, verdict=Verdict.OPEN, found=f"{rows} measurements, then cut off")
    else:
        found = bench.shown(f"exit status {ended.code} after {rows} measurements: {ended.last_words}")
        yield Claim(claim=claim, verdict=Verdict.FAILED, found=found)
    if not bench.on_gpu:
        yield Claim(claim="speed of GPU kernels", verdict=Verdict.OPEN, found=NO_GPU)
