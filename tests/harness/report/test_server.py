"""`serve` shows the campaigns of one directory to this machine, and nothing else to anybody."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

import pytest

from harness.campaign import store
from harness.campaign.runner import run_job
from harness.contract import file_names
from harness.report import server
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command

SECRET = "this file is not below RUNS"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished job and one that has not begun, beside a file that is nobody's business."""
    home = tmp_path_factory.mktemp("home")
    (home / "secret.html").write_text(SECRET)
    output = home / "runs"
    job = run_job(store.create(scripted_config(output, runs=1)), command=command())
    (job.directory / file_names.REPORT).write_text("<h1>the report</h1>")
    other = store.create(scripted_config(output, runs=1))
    (other.directory / file_names.REPORT).symlink_to(home / "secret.html")
    (home / "0_elsewhere").mkdir()
    (home / "0_elsewhere" / file_names.CAMPAIGN).write_text(
        (other.directory / file_names.CAMPAIGN).read_text()
    )
    (home / "0_elsewhere" / file_names.REPORT).write_text(SECRET)
    (output / "0_elsewhere").symlink_to(home / "0_elsewhere")
    return output


@pytest.fixture(scope="module")
def ask(runs):
    """Send bytes, get the answer's bytes."""
    running = server.server_of(runs, 0)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()

    def send(request: bytes) -> bytes:
        with socket.create_connection(running.server_address, timeout=1800) as connection:
            answer = b""
            with contextlib.suppress(OSError):  # it hangs up on a huge request
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
            return answer

    yield send
    running.shutdown()
    thread.join()
    running.server_close()


def get(path: str, host: str = "localhost", method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode("utf-8", "surrogateescape")


def test_the_page_shows_runs_curves_and_the_report(ask, runs):
    answer = ask(get("/", "127.0.0.1:8777")).decode()
    assert answer.startswith("HTTP/1.0 200") and "<svg" in answer and "success (target)" in answer
    finished, waiting = store.load_jobs(runs)
    assert answer.index(waiting.stamp) < answer.index(finished.stamp), "the newest job comes first"
    assert "pending" in answer and "elsewhere" not in answer
    report = ask(get(f"/{finished.directory.name}/report.html"))
    assert b"200 OK" in report and b"the report" in report and b"Content-Security-Policy" in report


def test_a_page_of_another_site_gets_nothing(ask):
    assert ask(get("/", "evil.example")).startswith(b"HTTP/1.0 403")


@pytest.mark.parametrize("place", ["{waiting}/report.html", "0_elsewhere/report.html"])
def test_a_link_does_not_lead_away(ask, runs, place):
    waiting = store.load_jobs(runs)[1].directory.name
    answer = ask(get("/" + place.format(waiting=waiting)))
    assert answer.startswith(b"HTTP/1.0 404") and SECRET.encode() not in answer


def test_five_hundred_hostile_requests_are_refused_and_read_nothing(ask, runs):
    draw = random.Random(5)
    name = store.load_jobs(runs)[0].directory.name
    pieces = [
        "..",
        "%2e%2e",
        "..%2f",
        "%5c",
        "/",
        "//",
        "secret.html",
        "report.html",
        "campaign.json",
        "%00",
        "%ff",
    ]
    pieces += ["etc/passwd", "~", "?", "#", "C:"]
    pieces += [name, "\\", "\x01", "\udce4", "file://", "result_0.txt"]
    methods = [
        "GET",
        "GET",
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "G\x00T",
        "",
    ]
    for _ in range(500):
        method = draw.choice(methods)
        path = "/" + "/".join(draw.choices(pieces, k=draw.randint(1, 6)))
        request = get(path, method=method)
        match draw.randint(0, 9):
            case 0:
                request = request[:-2] + b"X-Long: " + b"a" * draw.choice([70_000, 300_000]) + b"\r\n\r\n"
            case 1:
                request = request[:-2] + b"X-Many: 1\r\n" * 500 + b"\r\n"
            case 2:
                request = draw.randbytes(200) + b"\r\n\r\n"
            case 3:
                request = b"GET /" + b"a/" * 40_000 + b" HTTP/1.0\r\n\r\n"
        answer = ask(request)
        assert SECRET.encode() not in answer, request[:200]
        status = answer[:13].partition(b" ")[2][:3]
        pages = path.partition("?")[0].partition("#")[0].strip("/") in ("", f"{name}/report.html")
        if not (pages and status == b"200"):
            assert status.startswith(b"4") or answer == b"" or b"Error code: 4" in answer, (
                request[:200],
                answer[:80],
            )
