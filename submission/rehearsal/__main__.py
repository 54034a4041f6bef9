"""Prints what a step costs on the GPUs of a configuration, none of which is needed.

`python -m submission.rehearsal CONFIG.. [--json]`: each file is a config.json that names an arm;
`./run.sh bench --count` writes them and starts this.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from submission.rehearsal import fake_gpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="submission.rehearsal")
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    fake_gpu.load()  # before torch, which everything below imports
    from harness.contract import attempt_rows
    from submission.rehearsal.budget import document, text
    from submission.rehearsal.rehearse import Stage

    stage, documents = Stage(), []
    for path in arguments.configs:
        told = attempt_rows.read_config(path)
        documents.append(document(told, stage.rehearse(told.config, told.run.arm)))
    print(json.dumps({"budgets": documents}, indent=1) if arguments.json else text(documents))


if __name__ == "__main__":
    main()
