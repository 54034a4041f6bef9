"""Errors that a user can act on. Each has the exit code that the command line returns (README, Exit codes)."""

from __future__ import annotations

EXIT_OK = 0
EXIT_FAILED = 1  # checks failed or target not reached
EXIT_USAGE = 2  # usage or configuration
EXIT_ENVIRONMENT = 3  # no GPU, data missing, disk full
EXIT_TRAINING = 4  # training failed
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """One line that says where, what was found, what is allowed and what to do."""

    exit_code = EXIT_USAGE


class UsageError(UserError):
    """A path, name or option cannot be used."""


class ConfigError(UserError):
    """A value of benchmark.yaml, --set or an environment alias cannot be used."""


class EnvironmentFailure(UserError):
    """The machine lacks something the command needs: data, disk, accelerator, package."""

    exit_code = EXIT_ENVIRONMENT


class TrainingFailed(UserError):
    """A run ended without a result."""

    exit_code = EXIT_TRAINING
