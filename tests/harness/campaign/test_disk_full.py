"""A training that meets a full disk says so, by its status or else by its exit status; nobody reads its words."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from compliance import mllog
from harness.base.errors import EXIT_ENVIRONMENT, EnvironmentFailure
from harness.campaign import close_attempt, store
from harness.campaign.runner import run_job
from harness.contract import attempt_rows, file_names
from harness.contract.ending import EXIT_CODES, FULL_DISK, Ending, Reason, is_disk_full
from harness.contract.events import Events
from harness.records import attempt
from submission import train
from submission.__main__ import exit_status
from submission.checkpoint.checkpoint import CheckpointError
from submission.record import Record
from tests.harness.campaign.test_close_attempt import SUMMARY
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command
from tests.submission.scripted import ScriptedExecutor

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def refused(directory: Path, behaviour: str) -> tuple[EnvironmentFailure, Path]:
    """The end of a job whose first training fills the disk, and that training's attempt."""
    job = store.create(scripted_config(directory, runs=1))
    with pytest.raises(EnvironmentFailure, match="no space left on device") as failure:
        run_job(job, command=command(behaviour))
    (found,) = attempt.directories(job.campaigns[0].run_directory(0))
    return failure.value, found


def test_a_training_that_fills_its_disk_closes_its_log_and_says_why(small_disk):
    failure, found = refused(small_disk, "full_disk")
    assert failure.exit_code == EXIT_ENVIRONMENT and "[Errno 28]" in str(failure)
    last = attempt_rows.read_status(found)
    assert (last.reason, last.outcome, last.step) == (Reason.DISK_FULL, "aborted", 1)
    assert mllog.read(found / "result.txt").events[-1].key == "run_stop"
    assert not (found / file_names.RESERVE).exists()


def test_a_training_that_can_write_nothing_says_it_by_its_exit_status(small_disk):
    _, found = refused(small_disk, "full_for_all")
    last = attempt.ending(found)
    assert last == Ending(
        reason=Reason.DISK_FULL, message="the training found the disk full and could not record where"
    )
    assert attempt_rows.read_status(found).step == 0, "the status before the full disk was the last one"


def test_the_words_in_what_a_training_printed_are_no_full_disk(tmp_path):
    """A sentence with them may stand in any library's output."""
    (tmp_path / file_names.STDOUT).write_text(f"warning: {FULL_DISK} (a cache, ignored)\nkilled\n")
    close_attempt.close(tmp_path, code=1)
    assert attempt.ending(tmp_path).reason is Reason.LOST_RANK


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (EXIT_CODES[Reason.DISK_FULL], "nothing"),
        (1, SUMMARY.format(code=EXIT_CODES[Reason.DISK_FULL], story="To enable traceback see: https://..")),
    ],
    ids=["of its only process", "of a rank, as torchrun tells it"],
)
def test_an_exit_status_is_enough(tmp_path, code, said):
    (tmp_path / file_names.STDOUT).write_text(said)
    close_attempt.close(tmp_path, code=code)
    assert attempt.ending(tmp_path).reason is Reason.DISK_FULL


def test_torchrun_tells_the_exit_status_of_a_rank(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(f"import sys; sys.exit({EXIT_CODES[Reason.DISK_FULL]})")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "1",
        str(script),
    ]
    with (tmp_path / file_names.STDOUT).open("wb") as log:
        code = subprocess.run(launch, stdout=log, stderr=subprocess.STDOUT).returncode
    assert code == 1
    close_attempt.close(tmp_path, code=code)
    assert attempt.ending(tmp_path) == Ending(
        reason=Reason.DISK_FULL, message="rank 0 found the disk full and could not record where"
    )


def raised_from(outer: Exception, inner: Exception) -> Exception:
    try:
        raise outer from inner
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (FULL, True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (raised_from(ValueError("cannot save"), FULL), True),
        (RuntimeError("unable to write to file </torch_1>: No space left on device (28)"), True),
        (CheckpointError("step_8: no room", number=errno.ENOSPC), True),
        (CheckpointError("step_8: damaged"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("out of memory"), False),
        (None, False),
    ],
)
def test_a_full_disk_is_known_from_the_error(error, full):
    assert is_disk_full(error) is full
    if error is not None:
        assert train.failed(error).reason is (Reason.DISK_FULL if full else Reason.EXCEPTION)


def test_the_reserve_is_given_back_before_the_last_words(tmp_path, monkeypatch):
    """A disk that is full to the last byte, but for the reserve."""
    config, reserve = scripted_config(tmp_path), tmp_path / file_names.RESERVE
    record = Record(tmp_path, writes=True, caches_cleared=True, max_steps=20)
    size = reserve.stat().st_size
    assert size >= 1 << 18 and reserve.stat().st_blocks * 512 >= size
    events, write, filled = Events(tmp_path / "result.txt", writes=True), attempt_rows.write_status, []

    def step(number):
        filled.append(number)
        raise FULL

    def write_status(*arguments):
        if filled and reserve.exists():
            raise FULL
        write(*arguments)

    def end(*arguments, **options):
        if filled and reserve.exists():
            raise FULL
        close(*arguments, **options)

    close = events.end
    monkeypatch.setattr(attempt_rows, "write_status", write_status)
    monkeypatch.setattr(events, "end", end)
    executor = ScriptedExecutor(config, seed=1, losses=[9.0], step=step)
    with pytest.raises(OSError, match="No space left"):
        train.run(executor, config, events, record)
    assert attempt.ending(tmp_path).reason is Reason.DISK_FULL
    assert [event.key for event in mllog.read(tmp_path / "result.txt").events][-2:] == [
        "block_stop",
        "run_stop",
    ]


def test_the_exit_status_of_another_accident_stays_an_error():
    def crash() -> int:
        raise RuntimeError("crash")

    def full() -> int:
        raise FULL

    assert exit_status(full) == EXIT_CODES[Reason.DISK_FULL]
    assert exit_status(lambda: 1) == 1
    with pytest.raises(RuntimeError):
        exit_status(crash)
