"""Measure the page: start, click to preview, many visitors, memory over 300 requests.

``python benchmarks/space.py [--requests 300]`` on a quiet machine prints JSON. The page
runs as visitors meet it, in a process of its own, with the bundled styles.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

ROOT = Path(__file__).parents[1]
VISITORS = 20

SERVE = """
import sys, time
import gradio, torch
start = time.monotonic()
from styleplug.demo import launch
launch(server_name="127.0.0.1", server_port=int(sys.argv[1]), hub_styles=(), quiet=True,
       prevent_thread_lock=True)
print(time.monotonic() - start, flush=True)
time.sleep(1e6)
"""


def photograph(path: Path, side: int = 1000) -> Path:
    """Write a textured photograph of one megapixel."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    image = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), int)
    noisy = np.clip(image + rng.integers(-12, 12, image.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(path, quality=92)
    return path


def connect(url: str) -> Client:
    return Client(url, verbose=False, httpx_kwargs={"timeout": 600})


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB, without pages of mapped files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1000


def measure(
    client: Client, url: str, pid: int, photo: Path, requests: int
) -> dict[str, Any]:
    styles = [style["name"] for style in client.predict(api_name="/list_styles")]

    def ask(name: str, style: str, client: Client = client) -> float:
        start = time.monotonic()
        result = client.predict(handle_file(str(photo)), style, api_name=name)
        assert Path(result).stat().st_size > 0
        os.remove(result)
        return time.monotonic() - start

    for _ in range(3):
        ask("/preview", styles[0])
    previews = [ask("/preview", styles[i % len(styles)]) for i in range(15)]

    ended: list[int] = []

    def visit(number: int) -> float:
        own = connect(url)
        seconds = ask("/stylize", styles[number % len(styles)], own)
        ended.append(number)
        return seconds

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(VISITORS) as pool:
        waits = list(pool.map(visit, range(VISITORS)))
    together = time.monotonic() - start

    rng, memory = random.Random(0), []
    for number in range(requests):
        ask(rng.choice(["/stylize", "/preview"]), rng.choice(styles))
        memory.append(resident(pid))
        if number % 30 == 29:
            print(f"{number + 1} requests, {memory[-1]:.0f} MB", file=sys.stderr)
    return {
        "preview of 1 MP, seconds, median": round(statistics.median(previews), 3),
        "preview of 1 MP, seconds, slowest": round(max(previews), 3),
        f"{VISITORS} visitors, served": len(ended),
        f"{VISITORS} visitors, seconds": round(together, 2),
        f"{VISITORS} visitors, longest wait": round(max(waits), 2),
        "memory at request 30, MB": round(memory[29]),
        f"memory at request {requests}, MB": round(memory[-1]),
        "memory growth, MB": round(max(memory[29:]) - memory[29]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=300)
    requests = parser.parse_args().requests
    if requests < 30:
        parser.error("--requests must be at least 30")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as scratch:
        environment = {
            **os.environ,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": f"{scratch}/uploads",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", SERVE, str(port)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, env=environment, text=True
        ) as server:
            try:
                assert server.stdout is not None
                started = float(server.stdout.readline())
                start = time.monotonic()
                urllib.request.urlopen(url).read()
                page = time.monotonic() - start
                photo = photograph(Path(scratch) / "photo.jpg")
                client = connect(url)
                figures = measure(client, url, server.pid, photo, requests)
            finally:
                server.terminate()
    ready = {"start beyond imports, seconds": round(started + page, 2)}
    print(json.dumps({**ready, **figures}, indent=2))


if __name__ == "__main__":
    main()
