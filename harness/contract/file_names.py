"""Names of the files and directories that one process writes and another one reads: each is spelled here alone."""

from __future__ import annotations

from pathlib import Path

# in a campaign's directory
CAMPAIGN = "campaign.json"
CAMPAIGN_LOCK = ".lock"
REPORT = "report.html"
STUDY = "study.json"
RESULTS = "result_*.txt"  # glob of the promoted logs

# in an attempt's directory
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
LOG = "result.txt"
METRICS = "metrics.jsonl"
STATUS = "status.json"
PROOF = "proof.json"
DIAGNOSTICS = "diagnostics.jsonl"
STDOUT = "stdout.log"
TRIAL = "trial.json"  # of a trial of `qualify`
POWER = "power.jsonl"  # of another node: in its node_<rank>
CHECKPOINTS = "checkpoints"
INDEX_CACHE = "index_cache"  # Megatron's, removed when the training ends
RESERVE = ".reserve"  # room for the last words of a training that meets a full disk

# of a checkpoint, a corpus and a build of raw C4
CHECKPOINT_MANIFEST = "fourmark.json"
CORPUS_MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
BUILD_RECORD = "build.json"  # behind PREFIX and a dot
FETCH_RECORD = "fetch.json"

RUN, ATTEMPT, NODE, CHECKPOINT = "run_", "attempt_", "node_", "step_"  # directories: a number follows
_RESULT = "result_"


def run(index: int) -> str:
    return f"{RUN}{index}"


def attempt(number: int) -> str:
    """Counted from 1."""
    return f"{ATTEMPT}{number}"


def node(rank: int) -> str:
    """Directory in an attempt for what another node than the first leaves."""
    return f"{NODE}{rank}"


def stack(rank: int) -> str:
    """The Python stacks of a rank that the watchdog ended."""
    return f"rank_{rank}_stack.txt"


def checkpoint(step: int) -> str:
    return f"{CHECKPOINT}{step:08d}"


def result(index: int) -> str:
    return f"{_RESULT}{index}.txt"


def result_index(name: str) -> int | None:
    """The i of result_<i>.txt, as published also 01; None for another name."""
    digits = name.removeprefix(_RESULT).removesuffix(".txt")
    known = name == f"{_RESULT}{digits}.txt" and digits.isascii() and digits.isdigit() and len(digits) <= 6
    return int(digits) if known else None


def run_of(log: Path) -> Path:
    """The directory run_<i> of the run whose promoted log is `log`, result_<i>.txt of the same campaign."""
    return log.parent / log.stem.replace(_RESULT, RUN)
