"""A child process in which the real huggingface_hub client runs.

huggingface_hub reads its environment once, at import, so a test that wants its own
endpoint, cache or offline switch needs its own process. :class:`HubClient` is that
process seen from the test: it calls functions of styleplug there by name.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


class RemoteError(Exception):
    """An exception that a call raised in the child; ``kind`` is its class name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def hub_environment(endpoint: str, home: Path) -> dict[str, str]:
    """Return the environment of a process whose Hub is ``endpoint``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and "proxy" not in name.lower()
    }
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "10",
        "HF_HUB_ETAG_TIMEOUT": "10",
        "HF_TOKEN_PATH": str(home / "no-token"),
    }


HASTY = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
"""Environment of a client that waits for a second only."""


class HubClient:
    """Calls functions in a child process whose Hub is ``endpoint``."""

    def __init__(self, endpoint: str, home: Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                *("-W", "error"),
                *("-W", "ignore::DeprecationWarning"),  # huggingface_hub's own
                *("-m", "tests.hub_client"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
            env={**hub_environment(endpoint, home), **environment},
        )

    def together(self, calls: list[tuple[str, list[Any], dict[str, Any]]]) -> list[Any]:
        """Make several calls at the same time; errors come back as values."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(calls, default=str) + "\n")
        self._process.stdin.flush()
        return [
            RemoteError(**answer["error"]) if "error" in answer else answer["value"]
            for answer in json.loads(self._process.stdout.readline())
        ]

    def __call__(self, function: str, *args: Any, **keywords: Any) -> Any:
        """Call ``styleplug.<function>`` and return its value, as JSON has it."""
        (result,) = self.together([(function, list(args), keywords)])
        if isinstance(result, RemoteError):
            raise result
        return result

    def close(self) -> None:
        self._process.communicate()


def _as_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    return str(value)


def _answer(call: list[Any]) -> dict[str, Any]:
    function, args, keywords = call
    module, name = f"styleplug.{function}".rsplit(".", 1)
    try:
        called = getattr(importlib.import_module(module), name)
        return {"value": called(*args, **keywords)}
    except Exception as error:  # noqa: BLE001 - the test is told
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def _limit_file_size(size: int) -> None:
    """Make writing fail as on a full disk."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


if __name__ == "__main__":
    if limit := os.environ.get("TEST_FILE_SIZE_LIMIT"):
        _limit_file_size(int(limit))
    for line in sys.stdin:
        with ThreadPoolExecutor(60) as pool:
            answers = list(pool.map(_answer, json.loads(line)))
        sys.stdout.write(json.dumps(answers, default=_as_json) + "\n")
        sys.stdout.flush()
