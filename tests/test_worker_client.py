"""The plug-in's side of the pipes, without GIMP, against a real worker process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worker_client
from worker_client import PICTURE_SUFFIXES, CancelledError, Worker, WorkerError

from styleplug.images import PICTURE_SUFFIXES as READABLE
from styleplug.worker import MAX_LINE, MAX_PIXELS

STANDIN = [sys.executable, "-su", str(Path(__file__).parent / "gimp/standin_worker.py")]
SIDE = 64
PIXELS = bytes(range(256)) * SIDE


@pytest.fixture
def worker():
    worker = Worker(STANDIN, silence_limit=60)
    yield worker
    worker.close()


def stylize(worker, body=(PIXELS,), style="negative", **options):
    header = {"style": style, "width": SIDE, "height": SIDE, "format": "u8"}
    reply = worker.stylize({**header, "bytes": len(PIXELS)}, body, **options)
    return worker.read(reply["bytes"])


def test_a_picture_comes_back_stylized(worker):
    result = stylize(worker)
    assert result[:3] == bytes(255 - value for value in PIXELS[:3])


def test_what_is_too_large_is_told_before_anything_is_sent(worker):
    header = {"style": "negative", "width": 1 << 15, "height": 1 << 14, "format": "f32"}
    assert header["width"] * header["height"] == worker_client.MAX_PIXELS == MAX_PIXELS
    header["width"] += 1

    def body():
        raise AssertionError("sent")
        yield b""

    with pytest.raises(WorkerError, match=r"537 million pixels.* 537 million"):
        worker.stylize({**header, "bytes": 1 << 33}, body())
    assert worker.alive
    assert stylize(worker)


def test_a_style_of_endless_text_is_told_before_anything_is_sent(worker):
    assert worker_client.MAX_LINE == MAX_LINE
    with pytest.raises(WorkerError, match=r"too long.* shorter path"):
        stylize(worker, style="x" * MAX_LINE)
    assert worker.alive
    assert stylize(worker)


def test_a_request_outdated_while_its_pixels_travel_ends_after_them(worker):
    outdated = False

    def body():
        nonlocal outdated
        for start in range(0, len(PIXELS), 1000):
            outdated = start > 5000
            yield PIXELS[start : start + 1000]

    with pytest.raises(CancelledError):
        stylize(worker, body(), "slow", cancelled=lambda: outdated)
    assert stylize(worker) == stylize(worker)


def test_a_request_can_be_taken_back_while_it_is_painted(worker):
    seen = []
    with pytest.raises(CancelledError):
        stylize(
            worker, style="slow", progress=seen.append, cancelled=lambda: bool(seen)
        )
    assert worker.alive
    assert stylize(worker)


HESITANT = """
import json, sys, time
number = json.loads(sys.stdin.readline())["id"]
for text in json.dumps({"type": "result", "id": number, "bytes": 2}) + "\\n", "ok":
    time.sleep(0.7)
    print(text, end="", flush=True)
"""
HASTY = f"""
import sys
sys.path.insert(0, {os.path.dirname(worker_client.__file__)!r})
import worker_client
worker_client._LONGEST_POLL = 0.2
worker = worker_client.Worker([sys.executable, "-c", {HESITANT!r}], silence_limit=2.5)
print(worker._process.pid, flush=True)
size = worker.request({{"type": "stylize"}})["bytes"]
print("reading", flush=True)
print(worker.read(size))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGSTOP")
@pytest.mark.parametrize("reading", [False, True])
def test_a_client_that_was_suspended_with_its_worker_does_not_give_it_up(reading):
    with subprocess.Popen([sys.executable, "-c", HASTY], stdout=subprocess.PIPE) as it:
        both = it.pid, int(it.stdout.readline())
        if reading:
            it.stdout.readline()
        time.sleep(0.3)
        for process in both:
            os.kill(process, signal.SIGSTOP)
        time.sleep(3)
        for process in both:
            os.kill(process, signal.SIGCONT)
            time.sleep(0.3)
        assert it.stdout.read().endswith(b"b'ok'\n")


@pytest.mark.parametrize(
    "config",
    [
        "",
        [],
        {"command": []},
        {"command": STANDIN, "silence_limit": "long"},
        {"command": STANDIN, "silence_limit": None},
    ],
)
def test_damaged_settings_are_told_with_what_to_run(config, tmp_path, monkeypatch):
    monkeypatch.setattr(worker_client, "CONFIG", tmp_path / "worker.json")
    worker_client.CONFIG.write_text(json.dumps(config))
    with pytest.raises(WorkerError, match="styleplug gimp install"):
        worker_client.start()


def test_what_gimp_sets_for_its_own_python_is_kept_from_the_worker(monkeypatch):
    foreign = ("PYTHONHOME", "GI_TYPELIB_PATH", "GTK_PATH", "GDK_BACKEND")
    foreign += ("GIO_MODULE_DIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    kept = {"PATH": "/bin", "HOME": "/root", "HF_HOME": "/models"}
    given = {**dict.fromkeys(foreign, "/gimp"), **kept}
    assert worker_client.clean_environment(given) == kept
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    worker = Worker(STANDIN, silence_limit=60)
    assert worker.hello()
    worker.close()


def test_the_cache_is_that_of_the_terminal_not_gimps_own():
    clean = worker_client.clean_environment
    gimps = "/Users/me/Library/Application Support/GIMP/3.0/cache"
    assert clean({"XDG_CACHE_HOME": gimps}) == {}
    mine = {"XDG_CACHE_HOME": "/Volumes/large/cache"}
    assert clean(mine) == mine


def test_out_of_a_flatpak_the_worker_is_started_on_the_host(tmp_path, monkeypatch):
    words = tmp_path / "words"
    spawn = tmp_path / "flatpak-spawn"
    spawn.write_text(f'#!/bin/sh\necho "$@" > "{words}"\nshift 3\nexec "$@"\n')
    spawn.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    exists = os.path.exists
    monkeypatch.setattr(
        os.path, "exists", lambda path: path == "/.flatpak-info" or exists(path)
    )
    worker = Worker(STANDIN, silence_limit=60)
    assert worker.hello()
    worker.close()
    folder = os.path.dirname(STANDIN[0])
    expected = ["--host", "--watch-bus", f"--directory={folder}", *STANDIN]
    assert words.read_text().split() == expected


@pytest.mark.skipif(sys.platform == "win32", reason="Flatpak is for Linux")
def test_a_flatpak_that_may_not_start_it_is_told_the_command(monkeypatch):
    refusal = "echo Portal call failed: org.freedesktop.DBus.Error.ServiceUnknown >&2"
    monkeypatch.setenv("FLATPAK_ID", "org.gimp.GIMP.Nightly")
    worker = Worker(["/bin/sh", "-c", refusal], silence_limit=60)
    with pytest.raises(WorkerError, match=r"Flatpak org\.gimp\.GIMP\.Nightly”"):
        worker.hello()


def test_the_file_chooser_shows_what_the_worker_takes():
    assert set(PICTURE_SUFFIXES) == READABLE
