"""Prints what a step costs on the GPUs of a configuration, without needing a GPU.

`python -m submission.rehearsal CONFIG.. [--json]`: each file is a config.json that names an arm;
`./run.sh bench --count` writes these files and starts this module.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from harness.contract.config import Parallelism
from submission.rehearsal import fake_gpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="submission.rehearsal")
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    fake_gpu.load()  # before torch, which all modules below import
    from harness.contract import attempt_rows
    from submission.rehearsal.budget import document, text
    from submission.rehearsal.rehearse import Stage

    stage, documents = Stage(), []
    for path in arguments.configs:
        told = attempt_rows.read_config(path)
        for rank in _stages(told.config.parallelism):
            documents.append(document(told, stage.rehearse(told.config, told.run.arm, rank)))
    print(json.dumps({"budgets": documents}, indent=1) if arguments.json else text(documents))


def _stages(parallelism: Parallelism) -> tuple[int, ...]:
    """A rank of the first pipeline stage and a rank of the last; the same rank where there is one stage."""
    return (0,) if parallelism.pipeline == 1 else (0, parallelism.world_size - 1)


if __name__ == "__main__":
    main()
