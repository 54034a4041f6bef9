"""One step of MXFP4 that is looked at, in several layouts; the first rank writes its rows as JSON. Under torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from harness.contract import diagnostics_rows

LAYOUTS = {
    "data": {"gpus_per_node": 2},
    "tensor": {"gpus_per_node": 2, "tensor": 2, "sequence_parallel": True},
    "pipeline": {"gpus_per_node": 2, "pipeline": 2},
}


def look(directory: Path, layout: dict) -> list[dict]:
    from megatron.core import parallel_state
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from harness.contract.environment import Ranks
    from submission.executor import MegatronExecutor
    from tests.submission.configurations import small_config

    settings = {"parallelism": {"threads_per_rank": 1, **layout}, "diagnostics": {"every_steps": 1}}
    config = small_config(directory, dtype="bf16", **settings)
    ranks, cache = Ranks.from_environment(), directory / "cache"
    executor = MegatronExecutor(config, arm="mxfp4", seed=11, ranks=ranks, cache=cache)
    executor.build()
    executor.index_data()
    executor.open_data()
    executor.train_step()
    executor.proof()
    parallel_state.destroy_model_parallel()
    destroy_num_microbatches_calculator()
    return [diagnostics_rows.to_plain(row) for row in executor.diagnosis()]


def main() -> None:
    from submission import device

    device.install()
    directory = Path(sys.argv[1])
    found = {name: look(directory, layout) for name, layout in LAYOUTS.items()}
    if torch.distributed.get_rank() == 0:
        (directory / "looks.json").write_text(json.dumps(found, allow_nan=False))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
