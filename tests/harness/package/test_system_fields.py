"""The system description: what each vendor's tool says, what the machine says, and where a value comes from."""

from __future__ import annotations

import json

import pytest

from compliance.system_description import ALSO, FIELDS, MEANINGFUL, STATUSES
from harness.config.file import resolve
from harness.machine import probe
from harness.package import system_fields

H200 = "NVIDIA H200, 143771 MiB, 1980 MHz, 5, 16, 570.172.08\n" * 8
AMD = [
    {
        "gpu": 0,
        "asic": {"market_name": "AMD Instinct MI355X"},
        "vram": {"type": "HBM3E", "size": {"value": 294896, "unit": "MB"}},
    }
]
ROCM = {"card0": {"Card Series": "AMD Instinct MI300X", "VRAM Total Memory (B)": "206141652992"}, "card1": {}}


@pytest.fixture
def config():
    return resolve(
        "llama31_8b",
        overrides=["system.name=box", "parallelism.nodes=2", "launch.master_port=29500"],
        aliases={},
    ).config


def test_nvidia_smi_is_read():
    assert probe.nvidia(H200) == {
        "accelerator_model_name": "NVIDIA H200",
        "accelerator_memory_capacity": "140 GiB",
        "accelerator_frequency": "1980 MHz",
        "accelerator_host_interconnect": "PCIe Gen 5 x16",
        "driver": "NVIDIA driver 570.172.08",
    }
    assert probe.nvidia("NVIDIA X, [N/A], [N/A], [N/A], [N/A], 1\n")["accelerator_host_interconnect"] == ""


def test_amd_smi_and_rocm_smi_are_read():
    found = {
        "accelerator_model_name": "AMD Instinct MI355X",
        "accelerator_memory_capacity": "288 GiB",
        "accelerator_memory_configuration": "HBM3E",
    }
    assert probe.amd(json.dumps(AMD)) == probe.amd(json.dumps({"gpu_data": AMD})) == found
    assert probe.rocm(json.dumps(ROCM)) == {
        "accelerator_model_name": "AMD Instinct MI300X",
        "accelerator_memory_capacity": "192 GiB",
    }


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "{", "[]", "null", '[{"asic": 1}]', '{"card0": []}', "NaN"]
)
def test_a_tool_that_says_nothing_useful_gives_nothing(text):
    assert probe.nvidia(text) == probe.amd(text) == probe.rocm(text) == {}


def test_this_machine_answers_what_it_knows():
    known = probe.machine()
    assert int(known["host_processors_per_node"]) >= 1 and int(known["host_processor_vcpu_count"]) >= 1
    assert "kernel" in known["operating_system"] and "" not in known.values()
    assert known.keys() <= {*FIELDS, *ALSO, "driver"}


def test_disks_networks_and_caches_are_read_from_sysfs(tmp_path):
    for name, text in {
        "block/nvme0n1/queue/rotational": "0", "block/sda/queue/rotational": "0", "block/vda/queue/rotational": "1",
        "block/loop0/queue/rotational": "0", "class/net/eth0/speed": "100000", "class/net/eth1/speed": "100000",
        "class/net/eth2/speed": "25000", "class/net/lo/speed": "10", "class/net/down0/speed": "-1",
        "class/net/eth0/device/x": "", "class/net/eth1/device/x": "", "class/net/eth2/device/x": "",
        "class/net/down0/device/x": "", "class/infiniband/mlx5_0/ports/1/link_layer": "InfiniBand",
        "devices/system/cpu/cpu0/cache/index0/level": "1", "devices/system/cpu/cpu0/cache/index0/type": "Data",
        "devices/system/cpu/cpu0/cache/index0/size": "48K",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert probe._storage(tmp_path) == "NVMe SSD, SSD"
    assert probe._cards(tmp_path) == "2 x 100Gbit/s + 1 x 25Gbit/s"
    assert probe._networking(tmp_path) == "InfiniBand" and probe._caches(tmp_path) == "L1d 48K"


def test_every_field_has_an_origin_and_the_submitter_wins(config):
    machine = {"cooling": "air", "driver": "NVIDIA driver 1", "odd": "x"}
    recorded = {"packages": {"torch": "2.13.0", "numpy": "2.4"}, "python": "3.11.2", "cpu": "EPYC"}
    recorded |= {"accelerator": "H200", "system": machine}
    fields = system_fields.describe(config, recorded, {"host_networking": "InfiniBand"})
    assert tuple(fields) == (*FIELDS, *ALSO)
    told = {
        name: (field.value, field.origin) for name, field in fields.items() if field.origin != "placeholder"
    }
    assert told == {
        "submitter": ("reference", "benchmark.yaml"),
        "division": ("closed", "benchmark.yaml"),
        "status": ("Available on-premise", "benchmark.yaml"),
        "system_name": ("box", "benchmark.yaml"),
        "number_of_nodes": ("2", "benchmark.yaml"),
        "accelerators_per_node": ("8", "benchmark.yaml"),
        "host_processor_model_name": ("EPYC", "the campaign"),
        "accelerator_model_name": ("H200", "the campaign"),
        "framework": ("PyTorch 2.13.0", "the campaign"),
        "other_software_stack": ("numpy 2.4, Python 3.11.2, NVIDIA driver 1", "the campaign"),
        "cooling": ("air", "probed"),
        "host_networking": ("InfiniBand", "given"),
    }
    wanted, free = system_fields.placeholders(fields)
    assert set(wanted) <= set(MEANINGFUL) and sorted([*wanted, *free, *told]) == sorted(fields)


def test_another_machine_than_the_one_that_trained_is_not_described(config):
    here = {"cpu": probe.processor(), "accelerator": probe.machine().get("accelerator_model_name")}
    assert system_fields.describe(config, here, {})["operating_system"].origin == "probed"
    elsewhere = system_fields.describe(config, {**here, "cpu": "another"}, {})
    assert {field.origin for field in elsewhere.values()} == {"placeholder", "benchmark.yaml", "the campaign"}


@pytest.mark.parametrize(
    ("status", "words"), list(zip(["onprem", "cloud", "research", "preview"], STATUSES, strict=True))
)
def test_the_status_is_in_the_words_of_the_rules(status, words):
    config = resolve("llama31_8b", overrides=[f"system.status={status}"], aliases={}).config
    assert system_fields.describe(config, {}, {})["status"].value == words


def test_the_preset_names_the_accelerator_where_the_machine_did_not():
    texts = ["system.accelerator=MI355X", "system.accelerator_memory_gib=288"]
    config = resolve("llama31_8b", overrides=texts, aliases={}).config
    fields = system_fields.describe(config, {"cpu": "another"}, {})
    assert fields["accelerator_model_name"] == system_fields.Field(value="MI355X", origin="benchmark.yaml")
    assert fields["accelerator_memory_capacity"] == system_fields.Field(
        value="288 GiB", origin="benchmark.yaml"
    )
    recorded = {"cpu": "another", "accelerator": "AMD Instinct MI355X"}
    named = system_fields.describe(config, recorded, {})["accelerator_model_name"]
    assert named == system_fields.Field(value="AMD Instinct MI355X", origin="the campaign")


def test_the_memory_that_nobody_wrote_or_probed_comes_from_facts():
    config = resolve("llama31_8b", preset="h200_1x8", aliases={}).config
    memory = system_fields.describe(config, {"cpu": "another"}, {})["accelerator_memory_capacity"]
    assert memory == system_fields.Field(value="139 GiB", origin="facts.yaml")
