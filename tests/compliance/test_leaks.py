"""What must not be published is found by file and line; what only resembles it is left alone.

Every key here is made up and put together from pieces, so that this file holds none.
"""

from __future__ import annotations

import random
import time

import pytest

from compliance import leaks

SECRETS = {
    "aws": "key = AKIA" + "IOSFODNN7EXAMPLE",
    "aws secret": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzKEY",
    "github": "ghp_" + "a1B2" * 9,
    "github, fine-grained": "github_pat_" + "11ABCDEFG0_" * 5,
    "gitlab": "url = https://x/?private_token=glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "hugging face": "HF=hf_" + "abcdEFGH" * 5,
    "hugging face with digits": "login --token hf_" + "a1b2C3d4" * 4,
    "nvidia": "nvapi-" + "x1y2" * 12,
    "slack": "xoxb-" + "123456789012-abcdef",
    "google": "AIza" + "SyA1234567890abcdefghijklmnopqrstuv",
    "api key": "OPENAI=sk-" + "proj-abcDEF0123456789abcDEF01",
    "registry": "pypi-AgE" + "IcHlwaS5vcmcCJDU2Nzg5MDEy",
    "azure": "AccountKey=" + "a1B2c3D4" * 10 + "==",
    "private key": "-----BEGIN RSA PRIVATE KEY" + "-----",
    "openssh key": "-----BEGIN OPENSSH PRIVATE KEY" + "-----",
    "wandb": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "bearer": "Authorization: Bearer " + "abcdefghijkl0123456789",
    "docker": '{"auth": "' + 'dXNlcjpwYXNzd29yZDEyMw=="}',
    "address": "git clone https://bob:hunter2" + "@example.org/x",
    "netrc": "machine example.org login bob password " + "hunter2",
    "sshpass": "sshpass -p " + "hunter2 ssh node",
    "password": 'password = "hunter2' + '-and-more"',
    "password in json": '"password": "hunter2' + '-and-more",',
    "password in yaml": "  password: hunter2" + "more",
    "password in shell": "export DB_PASSWORD=hunter2" + "more",
    "password as an option": "mysql --password=hunter2" + "more",
    "password of digits": "password: 1234" + "5678",
    "token in shell": "NGC_TOKEN=abc123" + "def456",
    "private network": "MASTER_ADDR=10.12.0" + ".7",
    "private network of a home": "ssh 192.168.1" + ".20",
    "private network of a company": "nfs 172.20.3" + ".4:/data",
    "shared network": "host: 100.64.3" + ".4",
    "link local": "http://169.254.169" + ".254/latest",
    "private network, IPv6": "addr fd12:3456:789a" + "::1",
    "host": "ssh node17.cluster" + ".internal",
    "host without digits": "registry: docker.mycompany" + ".corp/image",
    "host in an address": "https://artifacts.example" + ".lan/x",
    "web token": "eyJ" + "hbGciOiJIUzI1NiJ9x.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
}
HARMLESS = [
    "MASTER_ADDR=127.0.0.1", "cuda_version: 10.13.1.26", "nvidia-curand-cu12==10.3.2.106", "token_count: 8192",
    'tokenizer = "llama-3.1-8b"', "password: ${PASSWORD}", "https://github.com/mlcommons/training",
    "hf_hub_download", "time 1.2.3", "host_processor_caches", "eval_tokens=8388608", "token: 128256",
    "see https://example.org:8080/path@v1", "from torch.internal import x", "lock = threading.local()",
    "api_key=os.environ['API_KEY1']", 'password = "<password>"', "HF_TOKEN=$HF_TOKEN", "secret: ...",
    "cuRAND 10.3.9.90", "listen on 0.0.0.0", "netmask 255.255.255.0", "job-master-0.svc.cluster.local",
    "torch._C.internal(x)", "token = tokens[i + 1]", "sha256:" + "0123456789abcdef" * 4,
]  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "Example").mkdir()
    return tmp_path / "Example"


def errors(tree, **names):
    return [(v.file, v.line) for v in leaks.scan(tree, **names) if v.severity == "error"]


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_what_looks_like_a_secret_is_found_by_line_and_not_repeated(tree, text):
    (tree / "run.sh").write_text(f"#!/bin/sh\n{text}\n")
    found = [v for v in leaks.scan(tree) if v.severity == "error"]
    assert {(v.file, v.line, v.rule) for v in found} == {("Example/run.sh", 2, "secret")}
    assert text not in str(found)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_is_left_alone(tree, text):
    (tree / "run.sh").write_text(f"{text}\n")
    assert list(leaks.scan(tree)) == []


def test_a_home_directory_and_a_binary_file_are_warnings(tree):
    (tree / "a.txt").write_text("cd /home/alice/run\n")
    (tree / "b.bin").write_bytes(b"\0" + SECRETS["aws"].encode())
    assert [(v.severity, v.file) for v in leaks.scan(tree)] == [
        ("warning", "Example/a.txt"),
        ("warning", "Example/b.bin"),
    ]


@pytest.mark.parametrize("name", ["id_rsa", "server.pem", "credentials.json", "login.key", "netrc"])
def test_a_file_made_for_keys_is_found_by_its_name(tree, name):
    (tree / name).write_text("anything\n")
    assert errors(tree) == [(f"Example/{name}", None)]


def test_the_name_of_the_machine_is_found_where_it_is_telling(tree):
    (tree / "a.txt").write_text("trained on gpu-node-7\non the gpu-node-77\nlocalhost\n")
    assert errors(tree, machine_names=["gpu-node-7", "localhost", "on"]) == [("Example/a.txt", 1)]


@pytest.mark.parametrize("before", [0, 19_990, 20_000, 59_000])
def test_a_secret_anywhere_in_a_long_line_keeps_its_line_number(tree, before):
    (tree / "a.txt").write_text("x\n" + "y " * (before // 2) + SECRETS["github"] + " z" * 30_000 + "\n")
    assert set(errors(tree)) == {("Example/a.txt", 2)}


@pytest.mark.parametrize(
    "piece", ["a", "a.", "a-", "token ", "password=", "http://", "1.", "fd00:", "_", "sk-a-"]
)
def test_a_long_line_takes_time_in_proportion_to_its_length(piece):
    """A megabyte in a second or so; a quadratic pattern takes minutes."""
    began = time.process_time()
    for text in leaks._pieces(piece * (1_000_000 // len(piece))):
        list(leaks.line(text, "a", 1))
    assert time.process_time() - began < 15


MORE = [  # one for every way to be worth reading that no text above has
    "\u017fecret = 'abc123def'", "to\u212aen: abc123def", "/home/alice/x", "/Users/alice/x", r"C:\Users\alice",
    "ASIA" + "A1B2" * 4, "npm_" + "a1B2" * 9, "wandbkey: " + "0123456789" * 4,
    "hooks.slack.com/services/T" + "a1B2" * 6,
    "passphrase: hunter2" + "more", "glpat-" + "a1B2" * 5,
]  # fmt: skip


def _line_by_line(content):
    """What is found where every line is read: slow, and what the scan has to agree with."""
    lines = content.decode("utf-8", errors="replace").split("\n")
    return [v for number, text in enumerate(lines, 1) for v in leaks.line(text, "Example/a.txt", number)]


def _mixed(seed, count):
    """Lines of pieces of secrets, of what only resembles them, in small and capital letters, between noise."""
    drawn = random.Random(seed)
    texts = [*SECRETS.values(), *HARMLESS, *MORE]
    for _ in range(count):
        text = drawn.choice(texts)
        if drawn.random() < 0.5:
            text = text[drawn.randrange(4) : len(text) - drawn.randrange(4)]
        if drawn.random() < 0.4:
            text = drawn.choice((str.upper, str.lower, str.title))(text)
        yield (
            drawn.choice(("", " ", "x", "\u00e9", "x=", "\t"))
            + text
            + drawn.choice(("", "\r", " \u2028", "z"))
        )


@pytest.mark.parametrize("seed", range(8))
def test_the_scan_finds_what_reading_every_line_finds(tree, seed, monkeypatch):
    monkeypatch.setattr(leaks, "_MOST", 10**6)
    content = "\n".join(_mixed(seed, 400)).encode() + b"\n\xff\xfe token=abc123def \xff"
    (tree / "a.txt").write_bytes(content)
    assert list(leaks.scan(tree)) == _line_by_line(content)


def test_what_holds_nothing_is_searched_many_times_faster_than_line_by_line(tree):
    """20 MB a second where reading every line takes one and a half; here a fifth of that ratio is asked for."""
    log = '{"key": "eval_accuracy", "value": 3.4567, "metadata": {"file": "train.py", "samples_count": 12288}}\n'
    content = log.encode() * 20_000
    (tree / "a.txt").write_bytes(content)
    began = time.process_time()
    assert list(leaks.scan(tree)) == []
    scanned = time.process_time() - began
    began = time.process_time()
    _line_by_line(content[: len(content) // 10])
    assert 3 * scanned < 10 * (time.process_time() - began)
