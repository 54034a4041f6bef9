"""Projects step time and time to train of each arm for `plan`, or says why there is no projection."""

from __future__ import annotations

from harness.base.errors import UsageError
from harness.config.plan_text import ArmTime
from harness.contract.config import Config, Recipe
from harness.machine import facts
from harness.projection import estimate

# format of our recipes -> precision of public systems that use it
_PRECISIONS = {"fp8-row": "fp8", "mxfp8": "fp8"}


def of(config: Config) -> list[ArmTime]:
    """Return a row per trained arm, in the order of the configuration."""
    return [_of_arm(config, arm) for arm in config.runs.arms]


def _of_arm(config: Config, arm: str) -> ArmTime:
    if why := _out_of_reach(config, config.recipes[config.arms[arm].recipe]):
        return ArmTime(arm=arm, why=why)
    parallel, board = config.parallelism, facts.accelerator(config.system.accelerator)
    assert board is not None  # _out_of_reach has checked this
    try:
        setup = estimate.setup(
            f"{parallel.world_size}x{board.name}",
            global_batch_size=config.batch.global_batch_size,
            precision=_precision(config.recipes[config.arms[arm].recipe]),
            attention="bf16",
            tensor=parallel.tensor,
            context=1,
            pipeline=parallel.pipeline,
        )
    except UsageError as refused:
        return ArmTime(arm=arm, why=str(refused).removeprefix("project: "))
    made = estimate.project(setup)
    return ArmTime(
        arm=arm,
        step_s=made.step_s,
        time_to_train_min=made.time_to_train_min,
        error_pct=made.error_pct,
        error_from=made.error_from,
        flags=tuple(made.flags),
    )


def _out_of_reach(config: Config, recipe: Recipe) -> str:
    """Return why the model cannot project an arm; empty if it can."""
    if config.benchmark.is_scaled:
        return "no projection: the model of step times is for the benchmark itself, not for a scaled model"
    if not config.system.accelerator:
        return "no projection: the accelerator is unknown; choose a --preset, or set system.accelerator"
    board = facts.accelerator(config.system.accelerator)
    if board is None:
        return f"no projection: {config.system.accelerator} is not in harness/machine/facts.yaml"
    if config.parallelism.recompute != "none":
        return "no projection: parallelism.recompute runs layers twice, which the model does not count"
    formats = {gemm.format for gemm in (recipe.fprop, recipe.dgrad, recipe.wgrad)}
    if len(formats) > 1 or recipe.switch_step or recipe.bf16_first_layers or recipe.bf16_last_layers:
        return "no projection: the recipe mixes formats, which no public system does"
    if _precision(recipe) not in board.dense_tflops:
        return f"no projection: {board.name} has no {_precision(recipe)} units and emulates them"
    return ""


def _precision(recipe: Recipe) -> str:
    return _PRECISIONS.get(recipe.fprop.format, recipe.fprop.format)
