"""The Hub client against a real HTTP server on loopback, see hub_server."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from styleplug import hub
from styleplug.errors import DownloadError, StyleNotFoundError
from styleplug.style import StyleInfo
from tests.hub_client import HASTY, ROOT, HubClient, RemoteError, hub_environment
from tests.hub_server import OWNER_TOKEN, Blob, Fault, HubServer, Repo

GHOST_COMMIT = "0" * 40


def style_bytes(name: str = "wave", size: int = 4000, **header: Any) -> bytes:
    """Return a style file of one tensor, which is all that the Hub side looks at.

    ``name`` is the style's, or that of a repository, owner/style.
    """
    tensor = {"dtype": "F16", "shape": [size], "data_offsets": [0, 2 * size]}
    name = name.rpartition("/")[2]
    metadata = StyleInfo(name=name, license="mit").to_metadata()
    text = json.dumps({"__metadata__": metadata, "style": tensor, **header}).encode()
    return struct.pack("<Q", len(text)) + text + bytes(2 * size)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture(scope="module")
def client(server: HubServer, home: Path) -> Iterator[HubClient]:
    client = HubClient(server.url, home)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _count_from_zero(server: HubServer) -> None:
    server.forget_requests()


def cached_files(home: Path) -> list[Path]:
    """Return all blobs in the cache, half-written ones included."""
    return [path for path in home.glob("hub/models--*/blobs/*") if path.is_file()]


# Names, without the Hub


def test_a_path_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "my.safetensors"
    path.write_bytes(style_bytes())
    assert hub.locate(path) == path
    assert hub.locate(str(path)) == path


def test_a_suffix_in_capitals_makes_a_path_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("UP.SAFETENSORS").write_bytes(style_bytes())
    assert hub.locate("UP.SAFETENSORS") == Path("UP.SAFETENSORS")


@pytest.mark.parametrize(
    "address",
    [
        "https://host.example/owner/name",
        "https://host.example/owner/name/blob/main/model.safetensors",
        "hf://owner/name",
        "hf://owner/name@v1",
    ],
)
def test_an_address_is_told_to_be_none_of_the_names(address: str) -> None:
    with pytest.raises(StyleNotFoundError, match=r"an address; write .*'owner/name'"):
        hub.locate(address)


def test_a_file_of_a_bare_name_is_not_taken_for_a_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wave").write_bytes(style_bytes())
    with pytest.raises(StyleNotFoundError, match="There is no style 'wave'"):
        hub.locate("wave")
    assert hub.locate("./wave") == Path("wave")
    assert hub.locate(Path("wave")) == Path("wave")


@pytest.mark.parametrize(
    "style", [Path("no/such/file"), "missing.safetensors", "a/b.safetensors"]
)
def test_a_missing_file_is_said_to_be_missing(style: Any) -> None:
    with pytest.raises(StyleNotFoundError, match="There is no file"):
        hub.locate(style)


@pytest.mark.parametrize("style", ["", "no-such-style", "a/b/c", "x" * 5000, "a\0b"])
def test_an_unknown_name_says_where_styles_are_listed(style: str) -> None:
    with pytest.raises(StyleNotFoundError, match="styleplug list"):
        hub.locate(style)


def test_a_forgotten_suffix_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.safetensors").write_bytes(b"a style")
    with pytest.raises(StyleNotFoundError, match=r"name mine\.safetensors"):
        hub.locate("mine")


def test_a_misspelt_name_gets_the_nearest_names() -> None:
    names = list(hub.bundled_styles())
    with pytest.raises(StyleNotFoundError, match=f"did you mean.*{names[0]}"):
        hub.locate(names[0] + "x")


def test_a_style_must_be_text_or_a_path() -> None:
    with pytest.raises(TypeError, match="a name or a path"):
        hub.locate(b"wave")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "style",
    [
        "../etc",
        "./wave",
        "~/wave",
        "owner/..",
        "owner/na me",
        "owner/name.git",
        "own--er/name",
        "owner/\u202ename",
        "owner/name@",
        "owner/name@../../../escape",
        "owner/name@/etc/passwd",
        "owner/name@a//b",
        "owner/name@a b",
        "owner/name@\nHost: x",
    ],
)
def test_a_hostile_id_is_refused_before_any_request(
    server: HubServer, client: HubClient, style: str
) -> None:
    with pytest.raises(RemoteError) as caught:
        client("hub.locate", style)
    assert caught.value.kind == "StyleNotFoundError"
    assert not server.requests


def test_importing_the_module_and_listing_load_no_http_client() -> None:
    code = (
        "import sys, styleplug.hub as hub; hub.list_styles(); "
        "print(*{'torch', 'httpx', 'httpx2', 'huggingface_hub.hf_api'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.strip() == ""


# Downloads


def test_a_style_is_downloaded_once_and_then_only_looked_up(
    server: HubServer, client: HubClient
) -> None:
    commit = server.add("owner/wave", {"model.safetensors": style_bytes()})
    path = Path(client("hub.locate", "owner/wave"))
    assert path.read_bytes() == style_bytes()
    assert path.parent.name == commit
    assert [r.method for r in server.requests] == ["HEAD", "HEAD", "GET"]
    assert "styleplug/" in server.requests[0].headers["user-agent"]

    server.forget_requests()
    assert Path(client("hub.locate", "owner/wave")) == path
    assert [r.method for r in server.requests] == ["HEAD"]


def test_a_cached_commit_costs_no_request(server: HubServer, client: HubClient) -> None:
    commit = server.add("owner/pinned", {"model.safetensors": style_bytes()})
    path = client("hub.locate", f"owner/pinned@{commit}")
    server.forget_requests()
    assert client("hub.locate", f"owner/pinned@{commit}") == path
    assert not server.requests


def test_a_branch_follows_the_hub_and_a_commit_does_not(
    server: HubServer, client: HubClient
) -> None:
    old = server.add("owner/moves", {"model.safetensors": style_bytes("old")})
    client("hub.pull", "owner/moves")
    new = server.add("owner/moves", {"model.safetensors": style_bytes("new")})
    assert Path(client("hub.pull", "owner/moves")).parent.name == new
    assert Path(client("hub.pull", f"owner/moves@{old}")).parent.name == old


def test_a_small_file_outside_large_storage_is_a_style_too(
    server: HubServer, client: HubClient
) -> None:
    blob = Blob(style_bytes(), large=False)
    server.add("owner/small", {"model.safetensors": blob})
    assert Path(client("hub.pull", "owner/small")).read_bytes() == blob.content


def test_a_private_style_opens_with_a_token_only(
    server: HubServer, client: HubClient
) -> None:
    server.add("owner/mine", {"model.safetensors": style_bytes()}, private=True)
    with pytest.raises(RemoteError, match=r"or it is private.*hf auth login") as caught:
        client("hub.pull", "owner/mine")
    assert caught.value.kind == "StyleNotFoundError"
    path = client("hub.pull", "owner/mine", token=OWNER_TOKEN)
    assert Path(path).read_bytes() == style_bytes()


def test_what_was_pulled_works_offline_without_a_request(
    server: HubServer, client: HubClient, home: Path
) -> None:
    commit = server.add("owner/kept", {"model.safetensors": style_bytes()})
    path = client("hub.pull", "owner/kept")
    server.forget_requests()
    offline = HubClient(server.url, home, HF_HUB_OFFLINE="1")
    assert offline("hub.locate", "owner/kept") == path
    assert offline("hub.locate", f"owner/kept@{commit}") == path
    cached = offline("hub.cache_info")
    assert "owner/kept" in [style["info"]["repo_id"] for style in cached]
    with pytest.raises(RemoteError, match="unset HF_HUB_OFFLINE") as caught:
        offline("hub.locate", "owner/far")
    assert caught.value.kind == "DownloadError"
    offline.close()
    assert not server.requests


def test_what_arrives_is_of_the_commit_that_was_looked_up(
    server: HubServer, client: HubClient
) -> None:
    class Moving(Repo):
        """Its branch moves on once it was looked up."""

        def find(self, revision: str) -> str | None:
            found = super().find(revision)
            self.refs["main"] = new
            return found

    repo = server.repos["owner/moving"] = Moving()
    new = repo.commit({"model.safetensors": Blob(style_bytes("new"))})
    old = repo.commit({"model.safetensors": Blob(style_bytes("old"))})
    path = Path(client("hub.pull", "owner/moving"))
    assert path.parent.name == old
    assert path.read_bytes() == style_bytes("old")
    assert Path(client("hub.pull", "owner/moving")).parent.name == new


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("reset", "HEAD"), id="reset"),
        pytest.param(Fault("status", "HEAD", 503), id="503"),
        pytest.param(Fault("status", "HEAD", 429), id="429"),
        pytest.param(Fault("foreign", "HEAD"), id="portal"),
    ],
)
def test_a_cached_style_is_used_when_the_hub_is_down(
    server: HubServer, client: HubClient, fault: Fault
) -> None:
    server.add("owner/sturdy", {"model.safetensors": style_bytes()})
    path = client("hub.pull", "owner/sturdy")
    server.repos["owner/sturdy"].faults = [fault]
    assert client("hub.pull", "owner/sturdy") == path
    assert not server.repos["owner/sturdy"].faults


def test_a_cached_style_goes_on_being_used_when_the_hub_refuses(
    server: HubServer, client: HubClient
) -> None:
    server.add("owner/gone", {"model.safetensors": style_bytes()})
    path = client("hub.pull", "owner/gone")
    repo = server.repos["owner/gone"]
    repo.faults = [Fault("status", "HEAD", 403)]
    assert client("hub.pull", "owner/gone") == path
    repo.gated = True
    assert client("hub.pull", "owner/gone") == path
    repo.gated, repo.private = False, True
    assert client("hub.pull", "owner/gone") == path
    del server.repos["owner/gone"]
    assert client("hub.pull", "owner/gone") == path


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(style_bytes("new"), Fault("reset", "STORAGE", times=9), id="lost"),
        pytest.param(
            style_bytes("new"), Fault("corrupt", "STORAGE", times=9), id="damaged"
        ),
        pytest.param(
            style_bytes("new").replace(b'\\"format\\": 1', b'\\"format\\": 2'),
            None,
            id="newer-format",
        ),
        pytest.param(b"no style", None, id="no-style"),
        pytest.param(Blob(b"", claimed_size=10 << 30), None, id="huge"),
    ],
)
def test_a_cached_style_is_used_when_its_update_cannot_be(
    server: HubServer, client: HubClient, content: bytes | Blob, fault: Fault | None
) -> None:
    server.add("owner/stays", {"model.safetensors": style_bytes("old")})
    path = client("hub.pull", "owner/stays")
    faults = (fault,) if fault else ()
    server.add("owner/stays", {"model.safetensors": content}, faults=faults)
    assert client("hub.pull", "owner/stays") == path
    server.add("owner/stays", {"model.safetensors": style_bytes("old")})
    assert client("hub.pull", "owner/stays") != path


def test_a_revision_that_no_longer_holds_a_style_is_told(
    server: HubServer, client: HubClient
) -> None:
    server.add("owner/emptied", {"model.safetensors": style_bytes()})
    client("hub.pull", "owner/emptied")
    server.add("owner/emptied", {})
    refused(client, "owner/emptied", "InvalidStyleError", "holds no model.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_cache_that_cannot_be_written_is_used_as_it_is(
    server: HubServer, tmp_path: Path
) -> None:
    commit = server.add("owner/sealed", {"model.safetensors": style_bytes("sealed")})
    client = HubClient(server.url, tmp_path)
    path = client("hub.pull", f"owner/sealed@{commit}")
    client.close()
    sealed = HubClient(server.url, tmp_path, TEST_FILE_SIZE_LIMIT="0")
    assert sealed("hub.pull", "owner/sealed") == path
    refs = tmp_path / "hub" / "models--owner--sealed" / "refs"
    (refs / "main").write_text(commit)
    server.add("owner/sealed", {"model.safetensors": style_bytes("newer")})
    assert sealed("hub.pull", "owner/sealed") == path
    sealed.close()


def test_what_cannot_be_read_in_the_cache_is_skipped(
    server: HubServer,
    client: HubClient,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.add("owner/secret", {"model.safetensors": style_bytes("secret")})
    client("hub.pull", "owner/secret")
    read = Path.read_text

    def forbidden(path: Path, **keywords: Any) -> str:
        if path.name == "main":
            raise PermissionError(13, "Permission denied")
        return read(path, **keywords)

    monkeypatch.setattr(Path, "read_text", forbidden)
    cached = {c.info.repo_id: c for c in hub.cache_info(cache_dir=home / "hub")}
    assert cached["owner/secret"].refs == ()


def test_cached_styles_tell_repository_and_commit(
    server: HubServer, client: HubClient, tmp_path: Path
) -> None:
    commit = server.add("owner/told", {"model.safetensors": style_bytes("told")})
    server.add("owner/else", {"model.safetensors": b"not a style"})
    client("hub.pull", "owner/told", cache_dir=str(tmp_path))
    with pytest.raises(RemoteError):
        client("hub.pull", "owner/else", cache_dir=str(tmp_path))
    (style,) = client("hub.cache_info", cache_dir=str(tmp_path))
    assert style["info"]["name"] == "told"
    assert style["info"]["repo_id"] == "owner/told"
    assert style["info"]["revision"] == commit
    listed = client("hub.list_styles", cache_dir=str(tmp_path))
    assert len(listed) == 1 + len(hub.bundled_styles())


def test_the_cache_tells_sizes_licences_and_what_is_pinned(
    server: HubServer, client: HubClient, tmp_path: Path
) -> None:
    first = server.add("owner/aging", {"model.safetensors": style_bytes("first")})
    client("hub.pull", "owner/aging", cache_dir=str(tmp_path))
    second = server.add("owner/aging", {"model.safetensors": style_bytes("second")})
    client("hub.pull", "owner/aging", cache_dir=str(tmp_path))
    server.forget_requests()
    cache = client("hub.cache_info", cache_dir=str(tmp_path))
    assert {s["info"]["revision"]: s["refs"] for s in cache} == {
        first: [],
        second: ["main"],
    }
    for style in cache:
        assert style["size"] == Path(style["info"]["path"]).stat().st_size
        assert style["info"]["license"] == "mit"
    assert not server.requests


def test_styles_on_the_hub_are_listed_over_several_pages() -> None:
    server = HubServer()
    for i in range(45):
        licence = "mit" if i % 2 else "cc0-1.0"
        server.add(
            f"owner/style-{i:02}",
            {"model.safetensors": style_bytes()},
            card={"library_name": "styleplug", "license": licence},
        )
    server.add("owner/style-other", {}, card={"library_name": "diffusers"})
    server.add("owner/style-hidden", {}, private=True)
    client = HubClient(server.url, Path("unused"))
    styles = client("hub.list_hub_styles")
    assert [s["repo_id"] for s in styles] == [f"owner/style-{i:02}" for i in range(45)]
    assert styles[0]["revision"] == server.repos["owner/style-00"].refs["main"]
    assert styles[0]["license"] == "cc0-1.0"
    found = client("hub.list_hub_styles", search="STYLE-1", license="MIT")
    assert [s["repo_id"][-2:] for s in found] == ["11", "13", "15", "17", "19"]
    for name in ("EUPL-1.2", "ask me first"):
        card = {"library_name": "styleplug", "license": "other", "license_name": name}
        server.add(f"owner/{name[:3]}", {}, card=card)
    card = {"library_name": "styleplug", "license": "openrail"}
    server.add("owner/rail", {}, card=card)
    (found,) = client("hub.list_hub_styles", license="OpenRAIL")
    assert found["repo_id"] == "owner/rail"
    (found,) = client("hub.list_hub_styles", license="eupl-1.2")
    assert (found["repo_id"], found["license"]) == ("owner/EUP", "EUPL-1.2")
    client.close()
    server.close()


@pytest.mark.parametrize(
    ("path", "function", "keywords"),
    [
        ("/api/models", "list_hub_styles", {}),
        ("/api/repos/create", "publish", {"repo_id": "owner/quiet", "artwork": "mine"}),
    ],
)
def test_a_hub_that_falls_silent_is_not_waited_for(
    path: str, function: str, keywords: dict[str, str], tiny_style: Path, tmp_path: Path
) -> None:
    server = HubServer()
    server.silent_on = path
    client = HubClient(server.url, tmp_path, HF_TOKEN=OWNER_TOKEN, **HASTY)
    with pytest.raises(RemoteError, match="did not answer in time") as caught:
        client(f"hub.{function}", *[tiny_style] * bool(keywords), **keywords)
    assert caught.value.kind == "DownloadError"
    client.close()
    server.close()


def test_a_list_that_cannot_be_had_is_explained(tmp_path: Path) -> None:
    server = HubServer()
    server.close()
    client = HubClient(server.url, tmp_path)
    with pytest.raises(RemoteError, match="cannot be reached") as caught:
        client("hub.list_hub_styles")
    assert caught.value.kind == "DownloadError"
    client.close()


# What the Hub can answer instead


def refused(
    client: HubClient, repo_id: str, kind: str, message: str, **keywords: Any
) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        client("hub.pull", repo_id, **keywords)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_missing_repository_is_a_style_not_found(client: HubClient) -> None:
    refused(client, "owner/ghost", "StyleNotFoundError", "no repository owner/ghost")


def test_a_missing_revision_is_named(server: HubServer, client: HubClient) -> None:
    server.add("owner/once", {"model.safetensors": style_bytes()})
    refused(client, "owner/once@v9", "StyleNotFoundError", "no revision 'v9'")
    refused(
        client, f"owner/once@{GHOST_COMMIT}", "StyleNotFoundError", "no revision '0000"
    )


def test_only_the_one_safe_file_is_ever_asked_for(
    server: HubServer, client: HubClient
) -> None:
    names = ["pytorch_model.bin", "../../escape", "/etc/passwd", "C:\\evil.safetensors"]
    server.add("owner/old", dict.fromkeys(names, b"\x80\x04."))
    refused(client, "owner/old", "InvalidStyleError", "Pickled weights are never")
    assert all(r.path.endswith("/model.safetensors") for r in server.requests)


def test_a_gated_repository_says_how_to_get_in(
    server: HubServer, client: HubClient
) -> None:
    server.add("owner/gated", {"model.safetensors": style_bytes()}, gated=True)
    refused(client, "owner/gated", "DownloadError", "accept its conditions on http")


def test_a_wrong_token_is_named(server: HubServer, client: HubClient) -> None:
    server.add("owner/open", {"model.safetensors": style_bytes()})
    refused(client, "owner/open", "DownloadError", "access token", token="hf_expired")


def test_a_token_that_cannot_be_sent_is_named_and_what_is_cached_is_used(
    server: HubServer, client: HubClient
) -> None:
    server.add("owner/typo", {"model.safetensors": style_bytes()})
    told = "access token has characters.*HF_TOKEN"
    refused(client, "owner/typo", "DownloadError", told, token="hf_s\xe9cret")
    path = client("hub.pull", "owner/typo")
    assert client("hub.pull", "owner/typo", token="hf_s\xe9cret") == path


@pytest.mark.parametrize(
    "error", [ConnectionError("Xet"), ConnectionResetError(104, "")]
)
def test_a_connection_that_breaks_below_http_is_no_damage(error: OSError) -> None:
    told = pytest.raises(DownloadError, match="broke while owner/wave was transferred")
    with told, hub._explained("owner/wave"):
        raise error


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        pytest.param(Fault("status", "HEAD", 403), "forbids access", id="403"),
        pytest.param(Fault("status", "HEAD", 418), "status 418", id="418"),
        pytest.param(
            Fault("status", "HEAD", 429, {"Retry-After": "60"}),
            "try again in 60 seconds",
            id="429",
        ),
        pytest.param(Fault("status", "HEAD", 503, times=3), "status 503", id="503"),
        pytest.param(Fault("status", "STORAGE", 404, times=3), "status 404", id="404"),
        pytest.param(Fault("redirect", "HEAD", times=0), "TooMany|redirect", id="loop"),
        pytest.param(Fault("foreign", "HEAD"), "requires a login first", id="portal"),
        pytest.param(Fault("drop", "HEAD", times=3), "connection broke", id="drop"),
        pytest.param(
            Fault("reset", "STORAGE", times=3), "connection broke", id="reset"
        ),
        pytest.param(Fault("corrupt", "STORAGE", times=3), "damaged", id="corrupt"),
    ],
)
def test_a_fault_that_stays_is_explained_and_leaves_nothing(
    server: HubServer, client: HubClient, home: Path, fault: Fault, message: str
) -> None:
    repo_id = f"owner/fault-{fault.kind}-{fault.status}"
    server.add(repo_id, {"model.safetensors": style_bytes(repo_id)}, faults=(fault,))
    before = cached_files(home)
    refused(client, repo_id, "DownloadError", message)
    assert cached_files(home) == before


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("status", "HEAD", 503), id="503"),
        pytest.param(Fault("status", "HEAD", 429, {"Retry-After": "1"}), id="429"),
        pytest.param(Fault("drop", "HEAD"), id="drop"),
        pytest.param(Fault("reset", "HEAD"), id="reset-head"),
        pytest.param(Fault("status", "STORAGE", 500), id="500"),
        pytest.param(Fault("reset", "STORAGE"), id="reset"),
        pytest.param(Fault("truncate", "STORAGE"), id="truncate"),
        pytest.param(Fault("corrupt", "STORAGE"), id="corrupt"),
        pytest.param(Fault("slow", "STORAGE", seconds=0.3), id="slow"),
    ],
)
def test_a_fault_that_passes_is_overcome(
    server: HubServer, client: HubClient, fault: Fault
) -> None:
    repo_id = f"owner/passing-{fault.kind}-{fault.method}-{fault.status}"
    content = style_bytes(repo_id)
    server.add(repo_id, {"model.safetensors": content}, faults=(fault,))
    assert Path(client("hub.pull", repo_id)).read_bytes() == content
    assert not server.repos[repo_id].faults


def test_a_hub_that_is_too_slow_is_explained(server: HubServer, tmp_path: Path) -> None:
    slow = Fault("slow", "HEAD", seconds=1.5)
    server.add("owner/slow", {"model.safetensors": style_bytes()}, faults=(slow,))
    client = HubClient(server.url, tmp_path, **HASTY)
    refused(client, "owner/slow", "DownloadError", "HF_HUB_DOWNLOAD_TIMEOUT")
    client.close()


def test_a_hub_out_of_reach_is_explained(tmp_path: Path) -> None:
    server = HubServer()
    server.close()
    client = HubClient(server.url, tmp_path)
    refused(client, "owner/wave", "DownloadError", "cannot be reached")
    client.close()


def random_fault(rng: random.Random) -> Fault:
    method = rng.choice(["HEAD", "STORAGE", "STORAGE"])
    kinds = ["reset", "drop", "slow", "status", "foreign", "redirect"]
    if method == "STORAGE":
        kinds += ["truncate", "corrupt", "truncate", "corrupt"]
    return Fault(
        rng.choice(kinds),
        method,
        status=rng.choice([403, 404, 408, 429, 429, 500, 502, 503, 504]),
        headers=rng.choice([{}, {"Retry-After": "1"}]),
        after=rng.choice([0, 1, 100, 5000]),
        seconds=rng.choice([0.0, 0.1, 1.3]),
        times=rng.choice([1, 1, 1, 2, 6]),
    )


def test_a_hundred_faults_end_in_a_right_file_or_a_clear_error(
    server: HubServer, tmp_path: Path
) -> None:
    rng = random.Random(7)
    contents = {f"owner/luck-{i:02}": style_bytes(f"luck-{i}") for i in range(60)}
    faults = 0
    for repo_id, content in contents.items():
        planned = tuple(random_fault(rng) for _ in range(rng.choice([1, 2, 3])))
        faults += len(planned)
        server.add(repo_id, {"model.safetensors": content}, faults=planned)
    assert faults >= 100
    client = HubClient(server.url, tmp_path, **HASTY)

    results = client.together([("hub.pull", [repo_id], {}) for repo_id in contents])
    for content, result in zip(contents.values(), results, strict=True):
        if isinstance(result, RemoteError):
            assert result.kind == "DownloadError"
            assert re.fullmatch(r"\S[^\n]+; [^\n]+\.", str(result)), result
        else:
            assert Path(result).read_bytes() == content

    for path in cached_files(tmp_path):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    for repo_id in contents:
        server.repos[repo_id].faults.clear()
    client.close()
    client = HubClient(server.url, tmp_path)
    again = client.together([("hub.pull", [repo_id], {}) for repo_id in contents])
    client.close()
    assert [Path(path).read_bytes() for path in again] == list(contents.values())


# Hostile repositories and a cache that fails


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\x80\x04cos\nsystem\n.", "not a safetensors", id="pickle"),
        pytest.param(b"", "not a safetensors", id="empty"),
        pytest.param(style_bytes()[:-1], "cut short", id="truncated"),
        pytest.param(struct.pack("<Q", 1 << 62) + b"{}", "cut short", id="huge-header"),
        pytest.param(
            struct.pack("<Q", 200_000) + b"[" * 200_000, "not a safetensors", id="deep"
        ),
        pytest.param(struct.pack("<Q", 2) + b"{}", "no styleplug header", id="foreign"),
        pytest.param(
            style_bytes(evil={"dtype": "I64", "shape": [], "data_offsets": [0, 8]}),
            "I64",
            id="dtype",
        ),
        pytest.param(
            style_bytes(
                evil={"dtype": "F16", "shape": [-1, -4], "data_offsets": [0, 8]}
            ),
            "damaged|not a safetensors",
            id="negative-shape",
        ),
        pytest.param(style_bytes(evil=7), "not a safetensors", id="no-tensor"),
    ],
)
def test_a_file_that_is_no_style_is_refused_with_a_sentence_and_not_kept(
    server: HubServer, client: HubClient, home: Path, content: bytes, message: str
) -> None:
    before = cached_files(home)
    server.add("owner/hostile", {"model.safetensors": content})
    refused(client, "owner/hostile", "InvalidStyleError", message)
    assert cached_files(home) == before


def test_a_huge_claim_is_refused_before_the_download(
    server: HubServer, client: HubClient
) -> None:
    for large in (True, False):
        blob = Blob(style_bytes(), large=large, claimed_size=10 << 30)
        server.add(f"owner/huge-{large}", {"model.safetensors": blob})
        refused(client, f"owner/huge-{large}", "InvalidStyleError", "10,240 MB")
    assert {r.method for r in server.requests} == {"HEAD"}


def test_more_than_was_claimed_is_thrown_away(
    server: HubServer, client: HubClient, home: Path
) -> None:
    class Swelling(Repo):
        """Tells a small size where a branch is looked up, and then the right one."""

        def find(self, revision: str) -> str | None:
            blob.claimed_size = 1000 if revision == "main" else None
            return super().find(revision)

    blob = Blob(style_bytes("swelling", 5000))
    repo = server.repos["owner/swelling"] = Swelling()
    repo.commit({"model.safetensors": blob})
    before = cached_files(home)
    refused(client, "owner/swelling", "DownloadError", "damaged")
    assert cached_files(home) == before


@pytest.mark.parametrize("etag", ["../../../escape", "a/b", "", "x" * 20 + "/y"])
def test_an_etag_cannot_lead_out_of_the_cache(
    server: HubServer, client: HubClient, home: Path, etag: str
) -> None:
    blob = Blob(style_bytes())
    blob.sha256 = etag
    server.add("owner/path", {"model.safetensors": blob})
    refused(client, "owner/path", "DownloadError", "is not the Hub")
    assert not (home / "hub" / "models--owner--path").exists()


@pytest.mark.parametrize("at_once", [1, 6])
def test_a_cached_file_that_rotted_is_fetched_again(
    at_once: int, server: HubServer, client: HubClient
) -> None:
    name = f"owner/rotten-{at_once}"
    commit = server.add(name, {"model.safetensors": style_bytes(name)})
    path = Path(client("hub.pull", name))
    if not path.is_symlink():
        pytest.skip("the cache has no links here, so the hash is not at hand")
    for revision in ["", f"@{commit}"] * 4:
        path.write_bytes(b"x" * path.stat().st_size)
        calls = [("hub.pull", [f"{name}{revision}"], {})] * at_once
        assert client.together(calls) == [str(path)] * at_once
        assert path.read_bytes() == style_bytes(name)


def test_a_rotten_file_that_repositories_share_is_fetched_again_for_all(
    server: HubServer, tmp_path: Path
) -> None:
    """Xet itself is not at hand, so the files come by HTTP as if they came by Xet."""
    content, commits = style_bytes("shared"), []
    for name in ("owner/one", "owner/two"):
        blob = Blob(content, xet_hash="ab" * 32)
        commits.append(server.add(name, {"model.safetensors": blob}))
    code = (
        "import sys; from huggingface_hub import file_download, get_session\n"
        "from styleplug import hub; url, one, two = sys.argv[1:]\n"
        "def get(*, incomplete_path, **_):\n"
        "    incomplete_path.write_bytes(get_session().get(url).content)\n"
        "file_download.xet_get = get\n"
        "file_download.is_xet_available = lambda: True\n"
        "path = hub.pull('owner/one').resolve()\n"
        "path.chmod(0o600)\n"
        "path.write_bytes(b'x' * path.stat().st_size)\n"
        "print(hub.pull(one), hub.pull(two), path, sep='\\n')\n"
    )
    url = f"{server.url}/owner/one/resolve/main/model.safetensors"
    styles = ["owner/one", f"owner/two@{commits[1]}"]
    done = subprocess.run(
        [sys.executable, "-c", code, url, *styles],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**hub_environment(server.url, tmp_path), "HF_HUB_DISABLE_XET": "0"},
    )
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.read_bytes() for path in paths] == [content] * 3


@pytest.mark.parametrize("before", [True, False])
def test_what_another_process_removes_as_damaged_counts_as_not_cached(
    before: bool,
    server: HubServer,
    client: HubClient,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.add("owner/removed", {"model.safetensors": style_bytes("removed")})
    client("hub.pull", "owner/removed")
    look = hub._is_intact

    def removed_before_or_after(path: Path) -> bool:
        hub.remove(path)
        return before and look(path)

    monkeypatch.setattr(hub, "_is_intact", removed_before_or_after)
    assert hub._cached("owner/removed", "main", home / "hub") is None


def test_a_damaged_note_of_a_commit_hides_no_style(
    server: HubServer, client: HubClient, home: Path
) -> None:
    commit = server.add("owner/noted", {"model.safetensors": style_bytes("noted")})
    path = client("hub.pull", "owner/noted")
    note = home / "hub" / "models--owner--noted" / "refs" / "main"
    assert note.read_text() == commit
    note.write_bytes(b"\xff\xfe")
    cached = {c.info.repo_id: c for c in hub.cache_info(cache_dir=home / "hub")}
    assert cached["owner/noted"].info.revision == commit
    assert cached["owner/noted"].refs == ()
    assert client("hub.pull", "owner/noted") == path
    assert note.read_text() == commit


def test_a_cache_that_cannot_be_written_is_explained(
    server: HubServer, client: HubClient, tmp_path: Path
) -> None:
    server.add("owner/nowhere", {"model.safetensors": style_bytes()})
    (tmp_path / "file").write_text("in the way")
    for cache in (tmp_path / "file", *([Path("/proc/no")] * Path("/proc").is_dir())):
        refused(
            client,
            "owner/nowhere",
            "DownloadError",
            "cannot be kept in the cache.*HF_HOME",
            cache_dir=str(cache),
        )


@pytest.mark.skipif(os.name != "posix", reason="needs a limit on the size of files")
def test_a_full_disk_is_explained_and_leaves_nothing(
    server: HubServer, tmp_path: Path
) -> None:
    server.add("owner/full", {"model.safetensors": style_bytes(size=100_000)})
    client = HubClient(server.url, tmp_path, TEST_FILE_SIZE_LIMIT="100000")
    refused(client, "owner/full", "DownloadError", "free some space")
    client.close()
    assert not cached_files(tmp_path)
