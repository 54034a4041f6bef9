"""Names of the files and directories that one process writes and another reads; each is written here only."""

from __future__ import annotations

from pathlib import Path

# in a campaign's directory
CAMPAIGN = "campaign.json"
CAMPAIGN_LOCK = ".lock"
REPORT = "report.html"
STUDY = "study.json"
RESULTS_PAGE = "results.html"  # of the public index, in a directory that the user names
RESULTS = "result_*.txt"  # pattern of the promoted logs

# in an attempt's directory
CONFIG = "config.json"
ENVIRONMENT = "environment.json"
LOG = "result.txt"
METRICS = "metrics.jsonl"
STATUS = "status.json"
PROOF = "proof.json"
DIAGNOSTICS = "diagnostics.jsonl"
STDOUT = "stdout.log"
TRIAL = "trial.json"  # written by a trial of `qualify`
POWER = "power.jsonl"  # for other nodes it is in node_<rank>
CHECKPOINTS = "checkpoints"
INDEX_CACHE = "index_cache"  # written by Megatron, removed when the training ends
RESERVE = ".reserve"  # reserves space for the last records of a training on a full disk

# of a checkpoint, a corpus and a build of raw C4
CHECKPOINT_MANIFEST = "fourmark.json"
CORPUS_MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
BUILD_RECORD = "build.json"  # its name follows PREFIX and a dot
FETCH_RECORD = "fetch.json"

RUN, ATTEMPT, NODE, CHECKPOINT = (
    "run_",
    "attempt_",
    "node_",
    "step_",
)  # prefixes of directories; a number follows
_RESULT = "result_"


def run(index: int) -> str:
    return f"{RUN}{index}"


def attempt(number: int) -> str:
    """Name of the attempt's directory; attempts are counted from 1."""
    return f"{ATTEMPT}{number}"


def node(rank: int) -> str:
    """Directory in an attempt for the files of a node other than the first."""
    return f"{NODE}{rank}"


def stack(rank: int) -> str:
    """The Python stacks of a rank that the watchdog ended."""
    return f"rank_{rank}_stack.txt"


def checkpoint(step: int) -> str:
    return f"{CHECKPOINT}{step:08d}"


def result(index: int) -> str:
    return f"{_RESULT}{index}.txt"


def result_index(name: str) -> int | None:
    """The i of result_<i>.txt; published logs may write it as 01. None for another name."""
    digits = name.removeprefix(_RESULT).removesuffix(".txt")
    known = name == f"{_RESULT}{digits}.txt" and digits.isascii() and digits.isdigit() and len(digits) <= 6
    return int(digits) if known else None


def run_of(log: Path) -> Path:
    """The directory run_<i> of the run whose promoted log `log` is result_<i>.txt of the same campaign."""
    return log.parent / log.stem.replace(_RESULT, RUN)
