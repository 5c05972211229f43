"""The Hugging Face Hub's HTTP routes on loopback, faults included.

The real client talks to it through ``HF_ENDPOINT``. As on the real Hub, files under
large-file storage live on another host (here: by another name) to which ``resolve``
redirects, and whoever asks for a private repository without a token is told that it
does not exist.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

OWNER_TOKEN = "hf_owner"
BLOCK = 1 << 16


@dataclass
class Blob:
    """Content of one file: bytes, or a path (which may be a sparse file)."""

    content: bytes | Path
    large: bool = True
    sha256: str = ""
    claimed_size: int | None = None
    """What the server says the size is; ``None`` tells the truth."""
    xet_hash: str = ""
    """The hash by which repositories can share a blob in a cache."""

    def __post_init__(self) -> None:
        if not self.sha256:
            digest = hashlib.sha256()
            with self.open() as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            self.sha256 = digest.hexdigest()

    def open(self) -> BinaryIO:
        if isinstance(self.content, Path):
            return self.content.open("rb")
        return io.BytesIO(self.content)

    @property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return len(self.content)

    @property
    def etag(self) -> str:
        if self.large:
            return self.sha256
        assert isinstance(self.content, bytes)
        header = b"blob %d\0" % self.size
        return hashlib.sha1(header + self.content).hexdigest()


@dataclass
class Fault:
    """What goes wrong with the next request that it applies to."""

    kind: str
    """``status``, ``reset``, ``truncate``, ``corrupt``, ``slow``, ``redirect``,
    ``drop`` (an answer without a word), ``foreign`` (no Hub headers) or ``norange``
    (the whole file whatever was asked for)."""
    method: str = "GET"
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int = 100
    """Bytes of the body sent before a reset, a truncation or a pause."""
    seconds: float = 0.0
    times: int = 1


@dataclass
class Repo:
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    faults: list[Fault] = field(default_factory=list)
    titles: dict[str, str] = field(default_factory=dict)
    """Titles of the commits that last changed the files."""

    def commit(self, files: Mapping[str, Blob]) -> str:
        listing = [[n, b.etag] for n, b in files.items()] + [len(self.commits)]
        sha = hashlib.sha1(json.dumps(listing).encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs["main"] = sha
        return sha

    def find(self, revision: str) -> str | None:
        sha = self.refs.get(revision, revision)
        return sha if sha in self.commits else None


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]


class HubServer:
    """The server. ``url`` is its endpoint, ``requests`` what it was asked."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.uploads: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.sent = 0
        """Bytes of file content sent."""
        self.silent_on = ""
        """A path that is never answered."""
        self._closed = threading.Event()
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._servers = [_Server(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage_url = (
            f"http://{host}:{server.server_port}"
            for host, server in zip(
                ("127.0.0.1", "localhost"), self._servers, strict=True
            )
        )
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            ).start()

    def add(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path | Blob],
        *,
        private: bool = False,
        gated: bool = False,
        card: Mapping[str, Any] | None = None,
        faults: tuple[Fault, ...] = (),
    ) -> str:
        """Commit ``files`` to ``repo_id``, created if needed; return the commit."""
        repo = self.repos.setdefault(repo_id, Repo())
        repo.private, repo.gated = private, gated
        repo.card = dict(card or {"library_name": "styleplug"})
        repo.faults = list(faults)
        return repo.commit(
            {
                name: file
                if isinstance(file, Blob)
                else Blob(file, large=name.endswith(".safetensors"))
                for name, file in files.items()
            }
        )

    def forget_requests(self) -> None:
        with self.lock:
            self.requests.clear()
            self.sent = 0

    def close(self) -> None:
        self._closed.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.fault: Fault | None = None
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = b"".join(self._chunks())
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, self.path, {**self.headers}))
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        path = unquote(parts.path)
        if path == self.hub.silent_on:
            self.hub._closed.wait(10)
            return
        for pattern, route in _ROUTES:
            if match := re.fullmatch(pattern, path):
                route(self, **match.groupdict())
                return
        self._json({"error": "no such route"}, status=404)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    # Answers

    def _json(
        self,
        value: Any,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        headers = {}
        if code:
            headers["X-Error-Code"] = code
        if message:
            headers["X-Error-Message"] = message
        self._json({"error": message or code}, status=status, headers=headers)

    def _reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def _repo(self, repo_id: str) -> Repo | None:
        """Return the repository if it exists and the caller may see it."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        repo = self.hub.repos.get(repo_id)
        if token and token != OWNER_TOKEN:
            message = "Invalid credentials in Authorization header"
            self._refuse(401, message=message)
        elif repo is None or (repo.private and not token):
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        elif repo.gated and not token:
            self._refuse(401, "GatedRepo", f"Access to {repo_id} is restricted.")
        else:
            with self.hub.lock:
                for fault in repo.faults:
                    if fault.method in (self.command, "*"):
                        self.fault = fault
                        fault.times -= 1
                        if fault.times == 0:
                            repo.faults.remove(fault)
                        break
            return repo if not self._fails_at_once() else None
        return None

    def _fails_at_once(self) -> bool:
        fault = self.fault
        if fault is None:
            return False
        if fault.kind == "status":
            self._json({"error": "a fault"}, status=fault.status, headers=fault.headers)
        elif fault.kind == "drop":
            self.close_connection = True
        elif fault.kind == "reset" and (self.command == "HEAD" or fault.after == 0):
            self._reset()
        elif fault.kind == "slow" and self.command == "HEAD":
            time.sleep(fault.seconds)
            return False
        elif fault.kind == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif fault.kind == "foreign":
            self._json({"portal": "please log in to this network"})
        else:
            return False
        return True

    def _file(self, blob: Blob, headers: Mapping[str, str]) -> None:
        """Send a blob, or the range of it that was asked for."""
        start, stop = 0, blob.size
        fault = self.fault
        asked = self.headers.get("Range", "")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked, re.ASCII)
        if match and not (fault and fault.kind == "norange"):
            start = int(match[1])
            stop = min(int(match[2]) + 1, stop) if match[2] else stop
            if start >= stop:
                self._refuse(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{blob.size}")
        else:
            self.send_response(200)
        size = blob.claimed_size or stop - start
        self.send_header("Content-Length", str(size))
        self.send_header("ETag", f'"{blob.etag}"')
        self.send_header("Accept-Ranges", "bytes")
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command == "HEAD":
            return
        with blob.open() as file:
            file.seek(start)
            while start < stop:
                block = file.read(min(BLOCK, stop - start))
                if fault and fault.kind == "corrupt":
                    block = bytes([block[0] ^ 1]) + block[1:]
                if fault and fault.kind in ("reset", "truncate", "slow"):
                    self.wfile.write(block[: fault.after])
                    self.wfile.flush()
                    time.sleep(fault.seconds)
                    if fault.kind == "reset":
                        self._reset()
                        return
                    if fault.kind == "truncate":
                        self.close_connection = True
                        return
                    self.wfile.write(block[fault.after :])
                else:
                    self.wfile.write(block)
                start += len(block)
                with self.hub.lock:
                    self.hub.sent += len(block)
        if blob.claimed_size is not None:
            self.close_connection = True

    # Routes

    def resolve(self, repo: str, revision: str, file: str) -> None:
        found = self._repo(repo)
        if found is None:
            return
        sha = found.find(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        blob = found.commits[sha].get(file)
        headers = {"X-Repo-Commit": sha}
        if blob is None:
            self._json(
                {"error": "Entry not found"},
                status=404,
                headers={**headers, "X-Error-Code": "EntryNotFound"},
            )
        elif not blob.large:
            self._file(blob, headers)
        else:
            self.send_response(302)
            storage = f"{self.hub.storage_url}/storage/{repo}/{sha}/{quote(file)}"
            for name, text in {
                **headers,
                "Content-Length": "0",
                "X-Linked-Size": str(blob.claimed_size or blob.size),
                "X-Linked-ETag": f'"{blob.sha256}"',
                "Location": storage,
            }.items():
                self.send_header(name, text)
            if blob.xet_hash:
                self.send_header("X-Xet-Hash", blob.xet_hash)
                self.send_header("X-Xet-Refresh-Route", "/no-such-route")
            self.end_headers()

    def storage(self, repo: str, sha: str, file: str) -> None:
        """A signed address: no token is asked for, and none must be sent."""
        if "Authorization" in self.headers:
            self._refuse(400, message="a token was sent off the Hub")
            return
        found = self.hub.repos[repo]
        with self.hub.lock:
            self.fault = next((f for f in found.faults if f.method == "STORAGE"), None)
            if self.fault:
                self.fault.times -= 1
                if self.fault.times == 0:
                    found.faults.remove(self.fault)
        if not self._fails_at_once():
            self._file(found.commits[sha][file], {})

    def info(self, repo: str, revision: str = "main") -> None:
        found = self._repo(repo)
        if found is None:
            return
        sha = found.find(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        self._json(self._model(repo, found, sha))

    def _model(self, repo_id: str, repo: Repo, sha: str) -> dict[str, Any]:
        tags = [repo.card.get("library_name", ""), *repo.card.get("tags", [])]
        if "license" in repo.card:
            tags.append(f"license:{repo.card['license']}")
        return {
            "id": repo_id,
            "sha": sha,
            "private": repo.private,
            "gated": repo.gated,
            "downloads": 0,
            "likes": 0,
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "pipeline_tag": repo.card.get("pipeline_tag"),
            "library_name": repo.card.get("library_name"),
            "tags": tags,
            "cardData": repo.card,
            "siblings": [{"rfilename": name} for name in repo.commits[sha]],
        }

    def models(self) -> None:
        filters = set(self.query.get("filter", []))
        search = self.query.get("search", [""])[0].lower()
        found = [
            model
            for repo_id, repo in sorted(self.hub.repos.items())
            if not repo.private
            and filters
            <= set((model := self._model(repo_id, repo, repo.refs["main"]))["tags"])
            and search in repo_id.lower()
        ]
        start = int(self.query.get("cursor", ["0"])[0])
        page = 20
        headers = {}
        if start + page < len(found):
            query = urlsplit(self.path).query
            query = re.sub(r"&?cursor=\d+", "", query) + f"&cursor={start + page}"
            headers["Link"] = f'<{self.hub.url}/api/models?{query}>; rel="next"'
        self._json(found[start : start + page], headers=headers)

    def tree(self, repo: str, revision: str) -> None:
        found = self._repo(repo)
        if found is None:
            return
        sha = found.find(revision)
        if sha is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return
        self._json(
            [
                {
                    "type": "file",
                    "path": name,
                    "size": blob.size,
                    "oid": blob.etag[:40],
                    "lastCommit": {
                        "id": sha,
                        "title": found.titles.get(name, "Edit"),
                        "date": "2026-01-01T00:00:00.000Z",
                    },
                    **(
                        {
                            "lfs": {
                                "oid": blob.sha256,
                                "size": blob.size,
                                "pointerSize": 130,
                            }
                        }
                        if blob.large
                        else {}
                    ),
                }
                for name, blob in found.commits[sha].items()
            ]
        )

    def whoami(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {OWNER_TOKEN}":
            self._refuse(401, message="Invalid credentials in Authorization header")
        else:
            self._json({"type": "user", "name": "owner", "orgs": [], "auth": {}})

    def create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {OWNER_TOKEN}":
            self._refuse(401, message="Invalid credentials in Authorization header")
            return
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'owner'}/{asked['name']}"
        if not repo_id.startswith("owner/"):
            self._refuse(403, message="You don't have the rights to create a model")
            return
        exists = repo_id in self.hub.repos
        if not exists:
            repo = self.hub.repos[repo_id] = Repo()
            repo.private = asked.get("visibility") == "private" or bool(
                asked.get("private")
            )
            repo.commit({".gitattributes": Blob(b"", large=False)})
        self._json(
            {"url": f"{self.hub.url}/{repo_id}", "name": repo_id},
            status=409 if exists else 200,
        )

    def validate_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if self._repo(repo) is None:
            return
        self._json(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs"
                        if file["path"].endswith(".safetensors")
                        else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.body)["files"]
                ]
            }
        )

    def batch(self, repo: str) -> None:
        if self._repo(repo) is None:
            return
        objects = [
            {
                **wanted,
                "actions": {
                    "upload": {
                        "href": f"{self.hub.storage_url}/uploads/{wanted['oid']}"
                    }
                },
            }
            for wanted in json.loads(self.body)["objects"]
        ]
        self._json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._refuse(400, message="wrong hash")
            return
        self.hub.uploads[oid] = self.body
        self._json({})

    def commit(self, repo: str, revision: str) -> None:
        found = self._repo(repo)
        if found is None:
            return
        files = dict(found.commits[found.refs[revision]])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
            else:
                found.titles[value["path"]] = title
            if entry["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = Blob(content, large=False)
            elif entry["key"] == "lfsFile":
                files[value["path"]] = Blob(self.hub.uploads[value["oid"]])
        if "README.md" in files:
            with files["README.md"].open() as readme:
                found.card = yaml.safe_load(readme.read().decode().split("---")[1])
        sha = found.commit(files)
        self._json(
            {"commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "commitOid": sha}
        )


for _method in ("GET", "POST", "PUT"):
    setattr(_Handler, f"do_{_method}", _Handler.do_HEAD)

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES = (
    (r"/api/models", _Handler.models),
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (rf"/api/models/{_REPO}/preupload/(?P<revision>.+)", _Handler.preupload),
    (rf"/api/models/{_REPO}/commit/(?P<revision>.+)", _Handler.commit),
    (rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", _Handler.tree),
    (rf"/api/models/{_REPO}/revision/(?P<revision>.+)", _Handler.info),
    (rf"/api/models/{_REPO}", _Handler.info),
    (rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler.batch),
    (rf"/storage/{_REPO}/(?P<sha>[^/]+)/(?P<file>.+)", _Handler.storage),
    (r"/uploads/(?P<oid>[0-9a-f]{64})", _Handler.upload),
    (rf"/{_REPO}/resolve/(?P<revision>.+?)/(?P<file>[^/]+)", _Handler.resolve),
)
