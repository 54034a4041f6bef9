"""Rules about precision recipes: which options a format has, and whether every GEMM consists of whole blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from harness.contract.build import ConfigProblem
from harness.contract.config import Config, GemmFormat, Recipe

_GEMMS = ("fprop", "dgrad", "wgrad")
_BLOCKS = {"mxfp8": 32, "mxfp4": 32, "nvfp4": 16}  # number of elements that share a scale

_OF_EVERY_FORMAT = ("format", "gain", "mean_split")
_USUAL_RATIO = next(field.default for field in fields(Recipe) if field.name == "deoscillation_ratio")

_FP8 = (GemmFormat(format="fp8"), "format fp8")
_MXFP8 = (GemmFormat(format="mxfp8", scale_rule="rceil"), "format mxfp8, scale_rule rceil")
# Transformer Engine's scalings, and the format that each multiplies
_SCALINGS = {"delayed": _FP8, "tensorwise": _FP8, "mxfp8": _MXFP8}


def _options(config: Config) -> None:
    for path, settings in _gemms(config):
        block = _BLOCKS.get(settings.format)
        for field in fields(settings):
            found = getattr(settings, field.name)
            if block is None and field.name not in _OF_EVERY_FORMAT and found != field.default:
                allowed = f"{field.default} with the format {settings.format}"
                raise ConfigProblem(f"{path}.{field.name}", str(found), allowed)
        if settings.signs != "none" and not settings.hadamard:
            raise ConfigProblem(f"{path}.signs", settings.signs, "none without a Hadamard transform")
        if settings.signs_per_block and settings.signs == "none":
            raise ConfigProblem(f"{path}.signs_per_block", "true", "false with signs none")
        if settings.weight_rows not in (1, block):
            raise ConfigProblem(f"{path}.weight_rows", str(settings.weight_rows), f"1 or {block}")
        if not 0 < settings.prescale <= 1:
            raise ConfigProblem(f"{path}.prescale", str(settings.prescale), "above 0 and at most 1")
        if not 0 < settings.gain < 4:
            raise ConfigProblem(f"{path}.gain", str(settings.gain), "above 0 and below 4")
        if settings.mean_split and path.endswith(".dgrad"):
            raise ConfigProblem(f"{path}.mean_split", "true", "false: dgrad has no activations")


def _whole_blocks(config: Config) -> None:
    for arm in config.runs.arms:
        recipe: Recipe = config.recipes[config.arms[arm].recipe]
        later = [config.recipes[recipe.switch_to]] if recipe.switch_to else []
        for gemm, settings in ((gemm, getattr(one, gemm)) for one in (recipe, *later) for gemm in _GEMMS):
            block = max(_BLOCKS.get(settings.format, 1), settings.hadamard)
            for path, length, meaning in _contractions(config)[gemm]:
                if length % block:
                    allowed = (
                        f"a multiple of {block}: {settings.format.upper()} blocks of {gemm} in arm {arm}"
                    )
                    raise ConfigProblem(path, f"{meaning} = {length}", allowed)


def _transformer_engine(config: Config) -> None:
    """An arm that runs Transformer Engine's FP8 must have exactly that recipe.

    So the proof compares equal things.
    """
    for name, arm in config.arms.items():
        if arm.transformer_engine == "none":
            continue
        wanted, text = _SCALINGS[arm.transformer_engine]
        if config.recipes[arm.recipe] != Recipe(fprop=wanted, dgrad=wanted, wgrad=wanted):
            raise ConfigProblem(
                f"arms.{name}.recipe",
                f"'{arm.recipe}'",
                f"a recipe with {text} in all GEMMs and no other option, as Transformer "
                f"Engine's {arm.transformer_engine} scaling",
            )
        if arm.backend not in ("auto", "native"):
            allowed = "auto or native: Transformer Engine emulates nothing"
            raise ConfigProblem(f"arms.{name}.backend", arm.backend, allowed)
        if name in config.runs.arms and config.parallelism.recompute == "fc1":
            allowed = f"none or full: arm {name} keeps what Transformer Engine keeps"
            raise ConfigProblem("parallelism.recompute", "fc1", allowed)


def _layers_and_switches(config: Config) -> None:
    for name, recipe in config.recipes.items():
        out = recipe.bf16_first_layers + recipe.bf16_last_layers
        is_used = any(name in _with_later(config, arm) for arm in config.runs.arms)
        least = min(recipe.bf16_first_layers, recipe.bf16_last_layers)
        if least < 0 or (is_used and out > config.model.layers):
            found = f"{recipe.bf16_first_layers} and {recipe.bf16_last_layers}"
            allowed = f"0 or more, at most model.layers = {config.model.layers} together"
            raise ConfigProblem(f"recipes.{name}.bf16_first_layers, bf16_last_layers", found, allowed)
        if bool(recipe.switch_to) != (recipe.switch_step > 0):
            found = f"switch_step {recipe.switch_step}, switch_to '{recipe.switch_to}'"
            raise ConfigProblem(f"recipes.{name}", found, "both (a step above 0 and a recipe), or neither")
        if not recipe.switch_to:
            continue
        others = [key for key, other in config.recipes.items() if key != name and not other.switch_to]
        if recipe.switch_to not in others:
            allowed = f"a recipe that does not switch itself: {', '.join(others)}"
            raise ConfigProblem(f"recipes.{name}.switch_to", f"'{recipe.switch_to}'", allowed)


def _deoscillation(config: Config) -> None:
    for name, recipe in config.recipes.items():
        steps, fprop, path = recipe.deoscillation_steps, recipe.fprop, f"recipes.{name}"
        if steps < 0 or recipe.deoscillation_start < 0 or recipe.deoscillation_ratio <= 0:
            found = f"steps {steps}, ratio {recipe.deoscillation_ratio}, start {recipe.deoscillation_start}"
            allowed = "steps and start 0 or more, ratio above 0"
            raise ConfigProblem(f"{path}.deoscillation_steps", found, allowed)
        changed = recipe.deoscillation_start or recipe.deoscillation_ratio != _USUAL_RATIO
        if not steps and changed:
            allowed = "above 0, or no other option of de-oscillation"
            raise ConfigProblem(f"{path}.deoscillation_steps", "0", allowed)
        if not steps:
            continue
        if fprop.format not in ("mxfp4", "nvfp4") or fprop.hadamard or fprop.stochastic == "all":
            allowed = (
                "0 unless fprop is mxfp4 or nvfp4, without a transform, and rounds its weight to nearest"
            )
            raise ConfigProblem(f"{path}.deoscillation_steps", str(steps), allowed)
        used = [arm for arm in config.runs.arms if name in _with_later(config, arm)]
        if used and (config.checkpoint.every_steps or config.checkpoint.resume):
            allowed = f"0 with checkpoints, which do not hold its sums (arm {used[0]})"
            raise ConfigProblem(f"{path}.deoscillation_steps", str(steps), allowed)


def _with_later(config: Config, arm: str) -> tuple[str, str]:
    """The recipe of an arm, and the one that it switches to."""
    name = config.arms[arm].recipe
    return name, config.recipes[name].switch_to


def _contractions(config: Config) -> dict[str, list[tuple[str, int, str]]]:
    """GEMM -> the key to change, the length along which its operands are cut into blocks, and what that length is."""
    model, tensor = config.model, config.parallelism.tensor
    heads = model.hidden_size // model.attention_heads
    qkv = model.hidden_size + 2 * heads * model.query_groups
    tokens = config.batch.micro_batch_size * model.sequence_length
    return {
        "fprop": [
            ("model.hidden_size", model.hidden_size // tensor, "hidden_size / tensor"),
            ("model.ffn_hidden_size", model.ffn_hidden_size // tensor, "ffn_hidden_size / tensor"),
        ],
        "dgrad": [
            ("model.query_groups", qkv // tensor, "width of query, key and value / tensor"),
            ("model.hidden_size", model.hidden_size, "hidden_size"),
            ("model.ffn_hidden_size", 2 * model.ffn_hidden_size // tensor, "2 * ffn_hidden_size / tensor"),
        ],
        "wgrad": [("batch.micro_batch_size", tokens, "micro_batch_size * sequence_length")],
    }


def _gemms(config: Config) -> Iterator[tuple[str, GemmFormat]]:
    for name, recipe in config.recipes.items():
        for gemm in _GEMMS:
            yield f"recipes.{name}.{gemm}", getattr(recipe, gemm)


RULES: tuple[Callable[[Config], None], ...] = (
    _options,
    _layers_and_switches,
    _deoscillation,
    _whole_blocks,
    _transformer_engine,
)
