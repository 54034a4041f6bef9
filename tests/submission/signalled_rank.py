"""A rank with two data workers whose whole process group is signalled, as torchrun does; prints what became of them.

Started by test_batches.py in a session of its own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import torch

from submission import device
from submission.__main__ import _on_signals


class Stop(BaseException):
    pass


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 10_000

    def __getitem__(self, index):
        return torch.tensor(index)


def main() -> None:
    device.install()
    from megatron.core import parallel_state

    from submission import batches

    _on_signals(Stop)
    parallel_state.get_data_parallel_rank = lambda: 0
    parallel_state.get_data_parallel_world_size = lambda: 1
    with_gpu, torch.cuda.is_available = torch.cuda.is_available, lambda: True  # there workers read ahead
    iterator = batches.batches(Numbers(), micro_batch_size=2, total=10_000)
    torch.cuda.is_available = with_gpu
    next(iterator)
    workers = [worker.pid for worker in iterator._workers]
    error = None
    try:
        os.killpg(0, getattr(signal, sys.argv[1]))
        time.sleep(60)
    except Stop:
        try:
            for _ in range(200):  # closing the log: Python in the main thread, where torch would raise
                time.sleep(0.01)
        except RuntimeError as trouble:
            error = str(trouble).splitlines()[0]
    alive = [pid for pid in workers if os.path.exists(f"/proc/{pid}") and not is_zombie(pid)]
    print(json.dumps({"workers": workers, "alive": alive, "error": error}), flush=True)
    os._exit(0)  # as the watchdog ends a rank: nobody says farewell to the workers


def is_zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    main()
