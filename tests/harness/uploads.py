"""Runs to upload, without training; and stand-ins for the packages that upload, which write down what they get."""

from __future__ import annotations

import json
from pathlib import Path

from harness.campaign import campaign, store
from harness.campaign.campaign import Campaign
from harness.campaign.store import Job
from tests.harness.logs import write_run
from tests.harness.scripted_harness import scripted_config

START_S = 1_700_000_000.0  # run_start of write_run
SECRET = "hf_" + "abcdefghijklmnopqrstuvwxyz0123456789"

WANDB = """
import json, pathlib
__version__ = "0.99"
class Settings:
    mode = "offline"
    def __init__(self, **given):
        self.given = given
class Run:
    def __init__(self, given, settings):
        self.settings, self.rows, self.summary, self.given = settings, [], {}, given
        self.dir, self.url = given["dir"] + "/wandb/offline-run-1/files", None
    def log(self, values, step):
        self.rows.append([step, values])
    def finish(self):
        told = {**self.given, "settings": self.settings.given, "rows": self.rows, "summary": self.summary}
        pathlib.Path(self.given["dir"], "sent.json").write_text(json.dumps(told))
def init(*, settings, **given):
    if given["project"] == "offended":
        raise RuntimeError("No API key configured.\\nUse wandb login")
    return Run(given, settings)
"""
MLFLOW = {
    "__init__": "",
    "entities": """
from collections import namedtuple
Metric = namedtuple("Metric", "key value timestamp step")
Param = namedtuple("Param", "key value")
""",
    "tracking": """
import json, pathlib
from types import SimpleNamespace as Space
class MlflowClient:
    def __init__(self, tracking_uri):
        self.file = pathlib.Path(tracking_uri.removeprefix("file:"))
        self.sent = json.loads(self.file.read_text()) if self.file.exists() else {"runs": [], "calls": []}
    def _did(self, *what):
        self.sent["calls"].append(what)
        self.file.write_text(json.dumps(self.sent))
    def get_experiment_by_name(self, name):
        return None
    def create_experiment(self, name):
        self._did("experiment", name)
        return "7"
    def search_runs(self, experiments, filter_string):
        return [run for run in self.sent["runs"] if filter_string == f"tags.attempt = '{run}'"]
    def create_run(self, experiment, run_name, tags):
        self.sent["runs"].append(tags["attempt"])
        self._did("run", experiment, run_name, tags)
        return Space(info=Space(run_id="r1"))
    def log_batch(self, run_id, metrics=(), params=()):
        assert len(metrics) <= 1000 and len(params) <= 100
        self._did("batch", list(metrics), list(params))
    def set_terminated(self, run_id, status):
        self._did("ended", status)
""",
}
_MESSAGE = """
import json
class Message:
    def __init__(self, **fields):
        self.fields = fields
    def SerializeToString(self):
        return json.dumps(self, default=lambda one: one.fields if hasattr(one, "fields") else one.decode()).encode()
"""
TENSORBOARD = {
    "__init__": "",
    "compat/__init__": "",
    "compat/proto/__init__": _MESSAGE,
    "compat/proto/event_pb2": "from tensorboard.compat.proto import Message as Event",
    "compat/proto/summary_pb2": """
from tensorboard.compat.proto import Message
class Summary(Message):
    Value = type("Value", (Message,), {})
SummaryMetadata = type("SummaryMetadata", (Message,), {})
""",
    "summary/__init__": "",
    "summary/writer/__init__": "",
    "summary/writer/record_writer": """
class RecordWriter:
    def __init__(self, file):
        self.file = file
    def write(self, data):
        self.file.write(data + b"\\n")
""",
}


def packages(directory: Path) -> Path:
    """A place for sys.path with all three stand-ins."""
    for package, modules in {
        "mlflow": MLFLOW,
        "tensorboard": TENSORBOARD,
        "wandb": {"__init__": WANDB},
    }.items():
        for name, text in modules.items():
            path = directory / package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return directory


def finished_job(output: Path, *, host: str = "node-17") -> Job:
    """Two arms of one run each: four steps and two evaluations, sampled power, and things that must not leave."""
    config = scripted_config(output, runs=1, launch__master_addr=host, data__directory="/home/alice/data")
    job = store.create(config)
    arms = []
    for place, made in enumerate(job.campaigns):
        started, attempt = campaign.begin_attempt(made, made.runs[0])
        write(attempt, seed=place + 1)
        document = json.loads((attempt / "environment.json").read_text())
        document["cpu"] = f"EPYC of {host}"
        document["variables"] = {
            "NCCL_HOSTS": "10.1.2.3",
            "TORCH_HF_TOKEN": SECRET,
            "CUDA_CACHE_PATH": "/scratch/x",
        }
        (attempt / "environment.json").write_text(json.dumps(document))
        arms.append(campaign.settle(started))
    return Job(stamp=job.stamp, campaigns=tuple(arms))


def attempt_of(made: Campaign) -> Path:
    found = made.last_attempt(0)
    assert found is not None
    return found


def write(attempt: Path, *, seed: int) -> None:
    """What a training of 20 seconds leaves: two steps of 5 s, an evaluation, and the same again."""
    write_run(attempt / "result.txt", seed=seed, losses=[3.5, 3.2], interval=10, seconds_per_sample=1.0)
    rows = []
    for block in range(2):
        for step in (2 * block + 1, 2 * block + 2):
            train = {
                "kind": "train",
                "step": step,
                "samples": 8 * step,
                "loss": 5.0 - step,
                "lr": 1e-4 * step,
            }
            rows.append({**train, "gradient_norm": "nan" if step == 2 else 0.5, "step_s": 4.0})
        row = {
            "kind": "eval",
            "step": step,
            "samples": 8 * step,
            "loss": 3.5 - 0.3 * block,
            "elapsed_s": 10.0 * (block + 1),
        }
        rows.append(row)
    rows.insert(1, {"kind": "checkpoint", "step": 1, "directory": "/home/alice"})
    (attempt / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "tra')
    power = [{"t": START_S + t - 1, "source": "nvidia-smi", "watts": [300.0, 400.0]} for t in range(24)]
    (attempt / "power.jsonl").write_text("".join(json.dumps(row) + "\n" for row in power))
    (attempt / "status.json").write_text(
        json.dumps({"state": "ended", "outcome": "success", "reason": "target"})
    )
