"""Driver of the parity tests: 20 FP32 steps in several layouts; writes losses as JSON. Runs under torchrun."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

FOUR_LAYERS = {"layers": 4}
LAYOUTS = {  # by the group that one launch trains, and its number of ranks
    ("alone", 1): {
        "single": {},
        "mxfp4, single": {},
    },  # mean split: of BF16 products, so that it must change nothing
    ("pairs", 2): {
        "data": {"gpus_per_node": 2},
        "tensor, sequence": {"gpus_per_node": 2, "tensor": 2, "sequence_parallel": True},
        "fused, tensor, sequence": {"gpus_per_node": 2, "tensor": 2, "sequence_parallel": True},
        "pipeline": {"gpus_per_node": 2, "pipeline": 2},
        "mxfp4, tensor, sequence": {"gpus_per_node": 2, "tensor": 2, "sequence_parallel": True},
        "mean split, tensor, sequence": {"gpus_per_node": 2, "tensor": 2, "sequence_parallel": True},
    },
    ("more pairs", 2): {
        "data, plain optimizer": {"gpus_per_node": 2, "distributed_optimizer": False},
        "data, overlap": {"gpus_per_node": 2, "overlap": True, "average_in_collective": True},
        "mxfp4, data": {"gpus_per_node": 2},
        "tensor": {"gpus_per_node": 2, "tensor": 2},
        "pipeline, interleaved": {"gpus_per_node": 2, "pipeline": 2, "virtual_pipeline": 2},
    },
    ("de-oscillated pairs", 2): {"de-oscillation": {"gpus_per_node": 2}},
    ("fours", 4): {
        "data x tensor": {"gpus_per_node": 4, "tensor": 2},
        "data x tensor, sequence, bf16 gradients": {
            "gpus_per_node": 4,
            "tensor": 2,
            "sequence_parallel": True,
            "gradient_reduce": "bf16",
        },
        "data x pipeline": {"gpus_per_node": 4, "pipeline": 2},
    },
}


def main() -> None:
    from harness.contract.environment import Ranks
    from submission import device

    device.install()
    directory, group = Path(sys.argv[1]), sys.argv[2]
    ranks = Ranks.from_environment()
    losses = {}
    for name, layout in LAYOUTS[group, ranks.world_size].items():
        losses[name] = train(directory, ranks, name, layout)
    if ranks.world_size == 1:
        losses["bare"] = bare(directory)
    if ranks.rank == 0:
        (directory / f"losses_{group}.json").write_text(json.dumps(losses))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(directory, ranks, name, layout):
    from megatron.core import parallel_state
    from megatron.core.num_microbatches_calculator import destroy_num_microbatches_calculator

    from submission.executor import MegatronExecutor
    from submission.model import unwrap
    from tests.submission.configurations import small_config

    split = {gemm: {"format": "bf16", "mean_split": gemm != "dgrad"} for gemm in ("fprop", "dgrad", "wgrad")}
    recipes = {"bf16": split} if name.startswith("mean split") else {}
    layers = 4
    if name == "de-oscillation":
        layers = 3  # an odd number: the ranks' parts meet inside a weight
        square = {gemm: {"format": "mxfp4", "weight_rows": 32} for gemm in ("fprop", "dgrad", "wgrad")}
        recipes = {"mxfp4": {**square, "deoscillation_steps": 4}}
    fusions = ("rope", "swiglu", "cross_entropy", "norm") if name.startswith("fused") else ()
    config = small_config(
        directory,
        model={"layers": layers, "fusions": fusions},
        recipes=recipes,
        parallelism={"threads_per_rank": 1, **layout},
    )
    arm = "mxfp4" if name.startswith("mxfp4") or name == "de-oscillation" else "bf16"
    executor = MegatronExecutor(config, arm=arm, seed=11, ranks=ranks, cache=directory / "cache")
    executor.build()
    models = [unwrap(chunk) for chunk in executor.trainer.chunks]
    if ranks.world_size == 1:
        weights = {key: value for key, value in models[0].state_dict().items() if value is not None}
        torch.save(weights, directory / "w.pt")
    elif config.parallelism.pipeline > 1:  # stages draw their own initial weights: start from the common ones
        for model in models:
            load_stage(model, torch.load(directory / "w.pt"))
        executor.trainer.optimizer.reload_model_params()
    executor.warm_up()
    executor.index_data()
    executor.open_data()
    losses = [executor.train_step().loss for _ in range(20)]
    losses.append(executor.evaluate())
    proof = executor.proof()
    if name == "de-oscillation":
        assert proof.snapped > 0
        require_parts_of_what_is_read(executor.trainer)
    parallel_state.destroy_model_parallel()
    destroy_num_microbatches_calculator()
    return losses


def require_parts_of_what_is_read(trainer):
    """Each rank's FP32 copies are the elements of the weights at the places that de-oscillation takes them for."""
    from submission.optimizer import masters, parts

    places = set()
    for part in parts(trainer.optimizer):
        for parameter, main, first in masters(part):
            read = parameter.detach().reshape(-1)[first : first + main.numel()]
            assert torch.equal(read.float(), main.detach().reshape(-1).to(parameter.dtype).float())
            places.add((first, main.numel() == parameter.numel()))
    assert len(places) > 1 and any(not whole for _, whole in places), "no parameter was cut"


def load_stage(model, weights):
    renamed = {}
    for key in model.state_dict():
        parts = key.split(".")
        if parts[:2] == ["decoder", "layers"]:
            parts[2] = str(model.decoder.layers[int(parts[2])].layer_number - 1)
        renamed[key] = weights.get(".".join(parts))
    model.load_state_dict(renamed, strict=False)


def bare(directory):
    """The same 20 steps with an independent model, optimizer, schedule and clipping of plain PyTorch."""
    from submission.batches import index_datasets
    from submission.tools.bare import BareLlama
    from tests.submission.configurations import small_config

    config = small_config(directory, model=FOUR_LAYERS)
    train_set, valid_set = index_datasets(config, seed=11, cache=directory / "cache")
    model = BareLlama(config.model)
    model.load(torch.load(directory / "w.pt"))
    adamw = torch.optim.AdamW(decay_groups(model), lr=0.0, betas=(0.9, 0.95), eps=1e-5)
    losses = []
    for step in range(20):
        for group in adamw.param_groups:
            group["lr"] = learning_rate(config.schedule, step)
        adamw.zero_grad()
        loss = mean_loss(model, [train_set[8 * step + k] for k in range(8)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(mean_loss(model, [valid_set[k] for k in range(8)]).item())
    return losses


def learning_rate(schedule, step):
    if step <= schedule.warmup_steps:
        return schedule.base_lr * step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / schedule.decay_steps
    return schedule.end_lr + (schedule.base_lr - schedule.end_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def decay_groups(model):
    """Weight decay is for matrices; the gains of the norms have none, as in Megatron."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]


def mean_loss(model, items):
    tokens, labels = (torch.stack([item[key] for item in items]) for key in ("tokens", "labels"))
    return F.cross_entropy(model(tokens).flatten(0, 1), labels.flatten())


if __name__ == "__main__":
    main()
