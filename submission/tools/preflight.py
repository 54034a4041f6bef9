"""Answers questions of `doctor` about the training's software, in a separate process: one JSON line on stdout.

python -m submission.tools.preflight precision --config FILE [--probe]   which engine multiplies each GEMM of each arm
python -m submission.tools.preflight engines --config FILE        tests every engine and attention kernel
torchrun .. -m submission.tools.preflight allreduce --mebibytes N speed and correctness of a sum over this node's ranks
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import EngineProbe
from harness.contract.config import Config
from harness.contract.environment import Ranks
from harness.contract.node_answers import AllReduceAnswer, EngineAnswer, PrecisionAnswer
from submission import device

_REPETITIONS = 5
_PATIENCE = timedelta(seconds=30)


def main() -> int:
    parser = argparse.ArgumentParser(prog="submission.tools.preflight")
    parser.add_argument("question", choices=["precision", "engines", "allreduce"])
    parser.add_argument("--config", type=Path, help=f"the {file_names.CONFIG} of an attempt")
    parser.add_argument(
        "--probe", action="store_true", help="skip engines whose products are wrong on this device"
    )
    parser.add_argument("--mebibytes", type=int, default=64, help="size of the summed tensor")
    args = parser.parse_args()
    device.die_with_parent()  # doctor kills a sum that hangs; every rank must then release its GPU
    answer: PrecisionAnswer | EngineAnswer | AllReduceAnswer | None
    if args.question == "allreduce":
        answer = all_reduce(args.mebibytes * 2**20)
    elif args.question == "engines":
        answer = engines(args.config)
    else:
        answer = precision(args.config, probe=args.probe)
    if answer is not None:
        print(json.dumps(asdict(answer)))
    return 0


def engines(path: Path) -> EngineAnswer:
    """Test every engine and attention kernel on the first device against the specification."""
    device.install()
    from kernels import architectures
    from submission import engine_probes

    home = _first_device()
    probes = engine_probes.try_everything(attempt_rows.read_config(path).config, home)
    return EngineAnswer(platform=architectures.of(home).name, probes=probes)


def _first_device() -> torch.device:
    return torch.device("cpu") if device.on_cpu() else torch.device("cuda", 0)


def precision(path: Path, *, probe: bool) -> PrecisionAnswer:
    """The engines that this node would use, by the same choice as in a run.

    Args:
        probe: test the chosen engines and skip those that are wrong, as a run does before it is built.
    """
    from kernels import architectures

    config = attempt_rows.read_config(path).config
    home = _first_device()
    on = architectures.of(home)
    arms, probes = _engines(config, home, probe=probe)
    return PrecisionAnswer(
        device=home.type,
        devices=torch.cuda.device_count(),
        torch=str(torch.__version__),
        cuda=torch.version.cuda,
        hip=torch.version.hip,
        collectives=_collectives(),
        without_peer_access=tuple(_strangers()),
        platform=on.name,
        fp8_units=on.has_fp8_units,
        fp4_units=on.has_fp4_units,
        arms=arms,
        why_no_gpu=device.why_no_gpu(),
        probes=(*probes, *(_attention(config, home) if probe else ())),
        probed=probe,
    )


def _attention(config: Config, home: torch.device) -> tuple[EngineProbe, ...]:
    device.install()
    from submission import engine_probes, modules

    try:
        return engine_probes.try_attention(config, home)[1]
    except modules.BackendMissing as error:
        return (EngineProbe(engine=config.model.attention, what=engine_probes.ATTENTION, failure=str(error)),)


def _engines(
    config: Config, home: torch.device, *, probe: bool
) -> tuple[Mapping[str, Mapping[str, str]], tuple[EngineProbe, ...]]:
    """Arm -> GEMM -> the engine that multiplies, or why there is none; and the tests."""
    from kernels import architectures
    from kernels.matmul import engine_probe, gemm
    from kernels.matmul.engine_protocol import Request
    from kernels.recipe import Gemm, Operand
    from submission.phases import phases_of

    on = architectures.of(home)
    probes = engine_probe.of(torch.empty(0, device=home)) if probe else None
    tokens = config.batch.micro_batch_size * config.model.sequence_length
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[config.model.dtype]
    arms: dict[str, dict[str, str]] = {}
    for arm in config.runs.arms:
        chosen = config.arms[arm]
        recipe = phases_of(config, arm)[0].recipe
        arms[arm] = {}
        for which in Gemm:
            left, right = (recipe[which].quantizer(which, operand) for operand in Operand)
            shape = tokens, config.model.hidden_size, config.model.hidden_size
            request = Request(left, right, *shape, recipe[which].gain, dtype)
            try:
                engine = gemm.choose(on, request, chosen.backend, probes)
                arms[arm][which.value] = f"{engine.backend(on, request)} ({engine.name})"
            except gemm.BackendError as error:
                arms[arm][which.value] = f"none: {error}"
    found = probes.found if probes else ()
    return arms, tuple(EngineProbe(engine=one.engine, what=one.what, failure=one.failure) for one in found)


def _collectives() -> str:
    if not torch.cuda.is_available():
        return "gloo"
    version = ".".join(map(str, torch.cuda.nccl.version()))
    return f"{'RCCL' if torch.version.hip else 'NCCL'} {version}"


def _strangers() -> list[str]:
    """Pairs of GPUs that cannot read each other's memory."""
    gpus = range(torch.cuda.device_count())
    return [f"{a}-{b}" for a in gpus for b in gpus if a < b and not torch.cuda.can_device_access_peer(a, b)]


def all_reduce(size_bytes: int) -> AllReduceAnswer | None:
    """Time a sum over all ranks.

    Returns:
        On rank 0 the median of several sums; None on the others.

    Raises:
        ValueError: the sum is wrong.
    """
    ranks = Ranks.from_environment()
    cuda = not device.on_cpu()
    home = torch.device("cuda", ranks.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(home)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    ones = torch.ones(size_bytes // 2, dtype=torch.bfloat16, device=home)
    dist.all_reduce(ones)
    if not bool((ones == ranks.world_size).all()):
        raise ValueError(
            f"all-reduce of ones over {ranks.world_size} ranks: wrong sum on rank {ranks.rank}; check its GPU and links"
        )
    times = [_timed(torch.zeros_like(ones)) for _ in range(_REPETITIONS)]
    dist.destroy_process_group()
    if ranks.rank:
        return None
    busy = size_bytes * 2 * (ranks.world_size - 1) / ranks.world_size
    bus_GBps = busy / sorted(times)[len(times) // 2] / 1e9
    return AllReduceAnswer(ranks=ranks.world_size, bytes=size_bytes, bus_GBps=bus_GBps)


def _timed(tensor: torch.Tensor) -> float:
    dist.barrier()
    if tensor.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    dist.all_reduce(tensor)
    if tensor.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    raise SystemExit(main())
