"""Saves in each layout and goes on in each other: on one rank in the test process, on two under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from tests.submission.configurations import small_config

ALONE = {"single": {}}
PAIRS = {
    "data": {},
    "tensor, sequence": {"tensor": 2, "sequence_parallel": True},
    "pipeline": {"pipeline": 2},
}
MORE = {"interleaved": {"pipeline": 2, "virtual_pipeline": 2}}  # resumed only
STEPS, SAVED_AT = 8, 4
RECIPES = {
    "bf16": {gemm: {"format": "bf16"} for gemm in ("fprop", "dgrad", "wgrad")},
    "chance": {
        gemm: {"format": "mxfp4", "hadamard": 16, "signs": "step", "stochastic": "all", "prescale": 0.75}
        for gemm in ("fprop", "dgrad", "wgrad")
    },
}


def checkpoint_config(directory: Path, *, dtype: str = "fp32", **changes):
    sections = {
        "recipes": RECIPES,
        "arms": {name: {"recipe": name} for name in (*RECIPES, "mxfp4", "fp8")},
        "runs": {"arms": ["chance"]},
        **changes,
    }
    return small_config(directory, dtype=dtype, **sections)


def main() -> None:
    from harness.contract.environment import Ranks
    from submission import device

    device.install()
    bench = Bench(Path(sys.argv[1]), Ranks.from_environment())
    pairs(bench)
    if bench.ranks.rank == 0:
        (bench.directory / "two.json").write_text(json.dumps(bench.losses))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class Bench:
    def __init__(self, directory: Path, ranks):
        self.directory, self.ranks, self.losses = directory, ranks, {}

    def train(self, name: str, layout: dict, arm: str = "bf16", start: Path | None = None, save=()) -> None:
        """Up to step 8 and an evaluation, from nothing or from a checkpoint; `save`: after which steps."""
        from megatron.core import parallel_state
        from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

        from submission.executor import MegatronExecutor

        parallelism = {"threads_per_rank": 1, "gpus_per_node": self.ranks.world_size, **layout}
        layers = {"layers": 2 if arm == "chance" else 4}
        batch = {"global_batch_size": 8, "micro_batch_size": 4}
        config = checkpoint_config(
            self.directory, model=layers, parallelism=parallelism, batch=batch, warmup={"train_steps": 1}
        )
        executor = MegatronExecutor(
            config, arm=arm, seed=11, ranks=self.ranks, cache=self.directory / "cache"
        )
        executor.build()
        executor.warm_up()
        done = executor.resume(start) // 8 if start else 0
        assert executor.described()["init_checkpoint_step"] == done
        executor.index_data()
        executor.open_data()
        losses = []
        for step in range(done + 1, STEPS + 1):
            losses.append(executor.train_step().loss)
            if step in save:
                executor.save(self.directory / "saved" / name)
        losses.append(executor.evaluate())
        assert executor.proof().verified
        self.losses[name] = losses
        parallel_state.destroy_model_parallel()
        destroy_num_microbatches_calculator()

    def saved(self, name: str, step: int = SAVED_AT) -> Path:
        return self.directory / "saved" / name / f"step_{step:08d}"

    def resume(self, saved: str, layouts: dict, arm: str = "bf16") -> None:
        for name, layout in layouts.items():
            self.train(f"{saved} -> {name}", layout, arm, start=self.saved(saved))


def before(bench: Bench) -> None:
    bench.train("single", {}, save=(2, SAVED_AT))
    bench.resume("single", ALONE)


def pairs(bench: Bench) -> None:
    """Layouts come to step 4 from the common step 2, because pipeline stages draw initial weights of their own."""
    for name, layout in PAIRS.items():
        bench.train(name, layout, start=bench.saved("single", 2), save=(SAVED_AT,))
    for saved in (*ALONE, *PAIRS):
        bench.resume(saved, PAIRS)
    bench.resume("single", MORE)
    bench.train("chance, data", {}, "chance", save=(SAVED_AT,))
    bench.resume("chance, data", {"data": {}}, "chance")


def after(bench: Bench) -> None:
    for saved in PAIRS:
        bench.resume(saved, ALONE)
    bench.resume("chance, data", ALONE, "chance")


if __name__ == "__main__":
    main()
