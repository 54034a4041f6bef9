"""The main job: train every arm, check, compare, report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from compliance import checker
from compliance.checker import Violation
from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.base.stderr import tell
from harness.campaign import store
from harness.campaign.campaign import Campaign
from harness.campaign.runner import run_job
from harness.campaign.store import Job
from harness.config import derived, memory
from harness.config.profile_choice import require_accelerators
from harness.contract.config import Config
from harness.data import ensure
from harness.machine import page_caches
from harness.upload import job_upload

_SHOWN = 5  # violations that are printed; `check` prints all


def start(config: Config, say: Callable[[str], None]) -> int:
    """Run the whole job, from the data to the report; returns the exit code.

    Args:
        say: takes each line of the answer.
    """
    for note in derived.lint(config):
        if derived.is_warning(note, config):
            tell(f"warning: {note}")
    require_accelerators(config)
    memory.require_fit(config)
    page_caches.require(config)
    job_upload.require(config)
    store.require_writable(Path(config.runs.output))
    ensure.ensure(config)
    return conclude(run_job(store.create(config)), say)


def conclude(job: Job, say: Callable[[str], None]) -> int:
    """Check, compare and report a finished job.

    Args:
        say: takes each line of the answer.

    Returns:
        EXIT_OK when every run reached the target and no check failed, else EXIT_FAILED.
    """
    # scipy and matplotlib take seconds that need not pass before the training begins
    from harness.analysis import comparison, machine_spread, submission_loader
    from harness.report import page as report_page

    broken = [error for made in job.campaigns for error in _check(made, say)]
    loaded = [submission_loader.load(made.directory) for made in job.campaigns]
    compared = comparison.compare(loaded, machine_spread.around(loaded))
    page = report_page.write_report(loaded, compared, job.directory)
    say(report_page.headline(compared))
    say(f"report: {page}")
    job_upload.after(job, say=say)
    converged = all(run.outcome == "success" for made in job.campaigns for run in made.runs)
    return EXIT_OK if converged and not broken else EXIT_FAILED


def _check(made: Campaign, say: Callable[[str], None]) -> list[Violation]:
    """Print how the runs of a campaign ended and which rules they violate; returns the errors."""
    ruleset = checker.load(checker.choose(made.config.benchmark.name, None).name)
    violations = checker.check_directory([made.result(run.index) for run in made.runs], ruleset)
    errors = [violation for violation in violations if violation.severity == "error"]
    counted = Counter(f"{run.outcome} ({run.reason})" for run in made.runs)
    ends = ", ".join(f"{count} x {end}" for end, count in counted.items())
    say(f"{made.arm}: {ends}; {len(errors) or 'no'} violations of ruleset {ruleset.name}")
    for error in errors[:_SHOWN]:
        found = f"{error.rule} {error.key}: found {error.found!r}, expected {error.expected}"
        say(f"  {error.file}:{error.line}: {found}; {error.message}")
    if len(errors) > _SHOWN:
        say(f"  and {len(errors) - _SHOWN} more; to see them: ./run.sh check {made.directory}")
    return errors
