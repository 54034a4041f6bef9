"""Steps that replay a captured graph train the losses of steps that do not, and are counted as often as they run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.base.errors import ConfigError
from harness.config.file import resolve
from tests.submission import recorded_graph
from tests.submission.configurations import small_config

STEPS = 7  # an evaluation every five


@pytest.fixture
def on_a_device_that_captures(monkeypatch):
    """A CPU whose quantisers are torch's operators, which the stand-in records, and draw as a GPU's do."""
    from kernels import philox
    from kernels.quantize import cpu
    from submission import device, step_graph

    monkeypatch.setattr(cpu, "_native", lambda: None)
    monkeypatch.setattr(philox, "_replays", lambda _: True)
    monkeypatch.setattr(device, "require_gpu", lambda _: None)
    monkeypatch.setattr(step_graph, "capture_on_gpu", recorded_graph.capture)


def train(executor, *, graph, **options):
    from submission import parallel

    # gloo's reduce_scatter would be invisible to the stand-in, and in a group of one a reduction changes nothing
    parallelism = {"cuda_graph": graph, "threads_per_rank": 1, "distributed_optimizer": False}
    made = executor(parallelism=parallelism, **options)
    made.warm_up()
    made.index_data()
    made.open_data()
    found = []
    for step in range(STEPS):
        result = made.train_step()
        found += [result.loss, result.gradient_norm]
        if step == 4:
            found.append(made.evaluate())
    proof = made.proof()
    made.close()
    parallel.shut_down()
    return found, proof


def recipes(**wgrad):
    plain = {"format": "mxfp4", "hadamard": 16}
    return {"recipes": {"mxfp4": {"fprop": plain, "dgrad": plain, "wgrad": {**plain, **wgrad}}}}


@pytest.mark.parametrize(
    "options",
    [
        {"arm": "bf16", "dtype": "fp32"},
        {"arm": "mxfp4", **recipes(stochastic="gradients", signs="step")},
    ],
    ids=["bf16", "mxfp4, stochastic"],
)
def test_replayed_steps_have_the_losses_of_steps_without_a_graph(
    on_a_device_that_captures, executor, options
):
    plain, without = train(executor, graph=False, **options)
    replayed, proof = train(executor, graph=True, **options)
    assert replayed == plain
    assert proof.gemms == without.gemms and without.graphs == ()
    (graph,) = proof.graphs
    # captured in the warm-up's second step: 4 linears of 2 layers, 3 GEMMs, 4 micro batches
    assert (graph.replays, graph.micro_batches, graph.products) == (STEPS, 4, 96)
    assert sum(graph.kernels.values()) > graph.products and not graph.unread


def test_each_recipe_of_a_run_has_its_own_graph_in_one_pool(on_a_device_that_captures, executor, monkeypatch):
    from submission import step_graph

    captures = []

    def capture(function, pool):
        captured = recorded_graph.capture(function, pool)
        captures.append(captured[0])
        return captured

    monkeypatch.setattr(step_graph, "capture_on_gpu", capture)
    switching = {"mxfp4": {**recipes()["recipes"]["mxfp4"], "switch_step": 3, "switch_to": "bf16"}}
    options = {"arm": "mxfp4", "recipes": switching}
    plain, _ = train(executor, graph=False, **options)
    replayed, proof = train(executor, graph=True, **options)
    assert replayed == plain
    assert [(graph.from_step, graph.replays) for graph in proof.graphs] == [(0, 3), (3, STEPS - 3)]
    first, second = captures
    assert first.shares_with is None and second.shares_with is first


def test_an_observed_step_runs_outside_the_graph(on_a_device_that_captures, executor):
    looks = {"diagnostics": {"every_steps": 3}, "arm": "bf16"}
    plain, _ = train(executor, graph=False, **looks)
    replayed, proof = train(executor, graph=True, **looks)
    assert replayed == plain and proof.graphs[0].replays == STEPS - 2


def test_after_a_warm_up_of_one_step_the_first_step_of_the_run_is_captured(
    on_a_device_that_captures, executor
):
    _, proof = train(executor, graph=True, arm="bf16", warmup={"train_steps": 1, "eval_steps": 1})
    assert proof.graphs[0].replays == STEPS and proof.verified


def test_a_step_outside_the_graph_gathers_the_weights_after_a_replay_and_no_graph_is_left(
    on_a_device_that_captures, executor
):
    """Megatron's flag says that a gather was done; evaluations and saves set it, and a replay would leave it."""
    made = executor(arm="bf16", parallelism={"cuda_graph": True, "distributed_optimizer": False})
    made.warm_up()
    made.index_data()
    made.open_data()
    groups = [group for chunk in made.trainer.chunks for group in chunk.bucket_groups]
    for group in groups:
        group.param_gather_dispatched = True
    made.train_step()
    assert groups and not any(group.param_gather_dispatched for group in groups)
    (found,) = made.trainer.graph._graphs.values()
    made.close()
    assert found.graph.steps == [] and made.trainer.graph._graphs == {}


def test_a_graph_that_lost_products_is_refused(on_a_device_that_captures, executor, monkeypatch):
    from submission.step_graph import NothingCaptured

    monkeypatch.setattr(recorded_graph.Recorded, "kernels", lambda _: {"one": 5})
    with pytest.raises(NothingCaptured, match="5 kernels, and the step multiplies 96 times"):
        train(executor, graph=True, arm="bf16")


def test_a_read_of_a_value_cannot_be_captured():
    with pytest.raises(recorded_graph.WaitsForTheDevice):
        recorded_graph.capture(lambda: torch.ones(1).item())


def test_a_machine_without_gpu_refuses(tmp_path):
    from submission import device

    with pytest.raises(device.NoGpu, match=r"parallelism\.cuda_graph: found true"):
        device.require_gpu(small_config(tmp_path, parallelism={"cuda_graph": True}))


@pytest.mark.parametrize(
    "changed, because",
    [
        (["parallelism.pipeline=2", "parallelism.gpus_per_node=2"], "messages between them"),
        (["parallelism.recompute=full"], "random states"),
        (["arms.fp8.transformer_engine=delayed"], "not ours"),
    ],
)
def test_what_a_graph_cannot_hold_is_refused(changed, because):
    with pytest.raises(ConfigError, match=rf"parallelism\.cuda_graph: found true; .*{because}"):
        resolve("proxy", overrides=["parallelism.cuda_graph=true", *changed])


class Driver:
    """The calls of cuda.bindings.driver that are made, on a graph of two kernels and a copy."""

    CUresult = SimpleNamespace(CUDA_SUCCESS=0)
    CUgraphNodeType = SimpleNamespace(CU_GRAPH_NODE_TYPE_KERNEL=0)
    nodes = (("product", 7, 0), ("copy", None, 0), ("product", 0, 9), ("quantize", 8, 0))

    def CUgraph(self, init_value):
        return init_value

    def cuGraphGetNodes(self, graph, count):
        return 0, self.nodes[:count], len(self.nodes)

    def cuGraphNodeGetType(self, node):
        return 0, int(node[0] == "copy")

    def cuGraphKernelNodeGetParams(self, node):
        return 0, SimpleNamespace(func=node[1], kern=node)

    def cuFuncGetName(self, func):
        return 0, {7: b"product", 8: b"quantize"}[func]

    def cuKernelGetName(self, kernel):
        return 0, kernel[0].encode()


def test_kernels_are_counted_by_the_names_of_their_nodes(monkeypatch):
    import sys

    from submission import graph_nodes

    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setitem(sys.modules, "cuda", SimpleNamespace(bindings=SimpleNamespace(driver=Driver())))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(driver=Driver()))
    assert graph_nodes.kernels_of(lambda: 1) == {"product": 2, "quantize": 1}
    Driver.cuGraphNodeGetType = lambda *_: (700, None)
    with pytest.raises(graph_nodes.Unread, match="answers 700"):
        graph_nodes.kernels_of(lambda: 1)
    monkeypatch.setattr(torch.version, "hip", "7.2")
    with pytest.raises(graph_nodes.Unread, match="HIP"):
        graph_nodes.kernels_of(lambda: 1)
