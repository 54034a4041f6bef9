"""Runs in a process of its own: Megatron's model on Transformer Engine's linears, compiled module stubbed.

python -m tests.submission.te_megatron. Prints one JSON document of findings.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from harness.contract import typed_json
from tests.submission import te_stub
from tests.submission.configurations import small_config, write_data

STEPS = 3
MXFP8 = {"format": "mxfp8", "scale_rule": "rceil"}
RECIPES = {"mxfp8": {key: MXFP8 for key in ("fprop", "dgrad", "wgrad")}}
CUSTOM = {"fp4": "e2m1", "fp4_recipe": "custom", "fp4_quantizer_factory": "submission.te_quantizer.mxfp4"}


def executor(directory: Path, arm: str, scaling: str = "none", options: dict[str, Any] | None = None) -> Any:
    """A built executor, on Transformer Engine's linears with a scaling, or on ours.

    Args:
        options: of Megatron's TransformerConfig, in the place of those that the scaling needs.
    """
    from harness.contract.environment import Ranks
    from submission.executor import MegatronExecutor

    arms = {arm: {"recipe": arm, "transformer_engine": scaling}}
    config = small_config(directory, dtype="bf16", recipes=RECIPES, arms=arms)
    made = MegatronExecutor(config, arm=arm, seed=5, ranks=Ranks(rank=0, local_rank=0, world_size=1),
                            cache=directory / "index")  # fmt: skip
    if options is not None:
        made._linears.megatron_options = lambda: options
    if options is CUSTOM:  # as any user of Megatron: nobody watches
        made._linears.name = lambda model: None
    made.build()
    return made


def trained(made: Any) -> dict[str, Any]:
    """Losses of the first steps and of an evaluation, what each GEMM ran, and what the log would disclose."""
    with te_stub.OnGpu():
        made.warm_up()
        made.index_data()
        made.open_data()
        losses = [made.train_step().loss for _ in range(STEPS)]
        losses.append(made.evaluate())
        found = {"losses": losses, "proof": typed_json.to_plain(made.proof()), "disclosed": made.precision()}
    return found


def stopped(made: Any) -> str:
    """Why the warm-up refuses to start the clock."""
    try:
        with te_stub.OnGpu():
            made.warm_up()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def weight_gradients(made: Any) -> list[str]:
    """Where each weight gradient of a step went, as its product was asked."""
    linear = importlib.import_module("transformer_engine.pytorch.module.linear")
    multiply, seen = linear.general_gemm, set()

    def spy(*arguments: Any, **options: Any) -> Any:
        if options.get("layout") == "NT":
            out = options.get("out")
            seen.add(f"{'returned' if out is None else out.dtype}, added: {options['accumulate']}")
        return multiply(*arguments, **options)

    with te_stub.OnGpu():
        made.index_data()
        made.open_data()
        linear.general_gemm = spy
        made.train_step()
        linear.general_gemm = multiply
    return sorted(seen)


def history_after_warm_up(made: Any) -> dict[str, float]:
    """Delayed scaling's memory after real steps, and after the synthetic ones of the warm-up."""

    def states() -> list[Any]:
        directions = ("scaling_fwd", "scaling_bwd")
        return [module.fp8_meta[name] for module in made._linears._modules for name in directions]

    def seen() -> float:
        return max(state.amax_history.max().item() for state in states())

    def scales() -> float:
        return max((state.scale - 1).abs().max().item() for state in states())

    with te_stub.OnGpu():
        made.warm_up()
        found = {"history after": seen(), "scales after": scales()}
        made.index_data()
        made.open_data()
        made.train_step()
    return {**found, "history in training": seen(), "scales in training": scales()}


def megatron_alone(directory: Path) -> dict[str, Any]:
    """Our factory named in Megatron's configuration as a user names it, gradients against our own linears'."""
    from submission import te_quantizer

    quantized = []
    hold = te_quantizer.MxStorage.hold
    te_quantizer.MxStorage.hold = lambda self, *a: (quantized.append(1), hold(self, *a))[1]
    losses = {}
    for name, scaling in (("ours", "none"), ("theirs", "tensorwise")):
        made = executor(
            directory, "mxfp4" if name == "ours" else "fp8", scaling, None if name == "ours" else CUSTOM
        )
        made._verify = lambda *_: None  # the factory's products are not in the ledger of an FP8 arm
        with te_stub.OnGpu():
            made.warm_up()
            made.index_data()
            made.open_data()
            losses[name] = [made.train_step().loss for _ in range(STEPS)]
        made.close()
    te_quantizer.MxStorage.hold = hold
    return {**losses, "quantized": len(quantized)}


def scenarios(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"refused": refused(directory)}
    for name, arm, scaling in (
        ("ours", "fp8", "none"), ("tensorwise", "fp8", "tensorwise"), ("delayed", "fp8", "delayed"),
        ("mxfp8 ours", "mxfp8", "none"), ("mxfp8", "mxfp8", "mxfp8"),
    ):  # fmt: skip
        te_stub.become(10 if scaling == "mxfp8" else 9)
        made = executor(directory, arm, scaling)
        found[name] = trained(made)
        made.close()
    te_stub.become(9)
    made = executor(directory, "fp8", "delayed")
    found["history"] = history_after_warm_up(made)
    made.close()
    made = executor(directory, "fp8", "tensorwise")
    found["weight gradients"] = weight_gradients(made)
    made.close()
    made = executor(directory, "fp8", "tensorwise", {})
    found["no fp8 context"] = stopped(made)
    made.close()
    found["custom recipe"] = megatron_alone(directory)
    return found


def refused(directory: Path) -> dict[str, str]:
    """What is said before anything is built: MXFP8 on a Hopper GPU, a recipe that is not the scaling's."""
    found = {}
    for arm, scaling in (("mxfp8", "mxfp8"), ("mxfp4", "tensorwise"), ("mxfp8", "delayed")):
        try:
            executor(directory, arm, scaling)
        except Exception as error:
            found[f"{arm} by {scaling}"] = f"{type(error).__name__}: {error}"
    return found


def main() -> None:
    package = te_stub.sources()
    assert package is not None
    warnings.filterwarnings("ignore")
    te_stub.install(package)
    from submission import device

    device.install()
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with tempfile.TemporaryDirectory() as name:
        write_data(Path(name))
        print(json.dumps({"version": te_stub.version(package), **scenarios(Path(name))}))


if __name__ == "__main__":
    main()
