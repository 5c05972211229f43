from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import io
import json
import math
import os
import random
import re
import signal
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from styleplug.demo.studio import Studio
from styleplug.style import StyleInfo
from tests.space.conftest import ROOT, Server, load, serving

STYLES = ["melencolia", "starry-night", "udnie"]
SENTENCE = re.compile(r"[^\n]{5,300}")


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from gradio_client import Client

    return Client(server.url, verbose=False)


def _upload(path: Path | str) -> Any:
    from gradio_client import handle_file

    return handle_file(str(path))


@pytest.fixture
def photo(content_image: Image.Image, tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.Artist] = "Somebody"
    path = tmp_path / "photo.jpg"
    content_image.save(path, exif=exif, quality=95)
    return path


def test_the_endpoints_are_named_and_documented(client: Any) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/stylize", "/preview", "/stylize_batch", "/list_styles"}
    stylize = endpoints["/stylize"]
    assert "painting" in stylize["description"]
    names = [parameter["parameter_name"] for parameter in stylize["parameters"]]
    assert names == [
        *("image", "style", "strength", "style_scale", "preserve_color"),
        *("second_style", "mix", "mask", "style_image"),
    ]
    assert all(parameter["type"] for parameter in stylize["parameters"])
    style_image = stylize["parameters"][-1]
    assert style_image["parameter_has_default"]
    assert "filepath" in str(style_image)
    for name in ("/preview", "/stylize_batch"):
        assert endpoints[name]["parameters"][-1]["parameter_name"] == "style_image"


def test_the_styles_are_listed(client: Any) -> None:
    styles = client.predict(api_name="/list_styles")
    assert [style["name"] for style in styles] == STYLES
    assert styles[0]["artist"] == "Albrecht Dürer"


def test_a_photo_is_stylized_in_its_own_format(client: Any, photo: Path) -> None:
    result = load(client.predict(_upload(photo), "udnie", api_name="/stylize"))
    assert (result.format, result.size) == ("JPEG", (96, 64))
    assert result.getexif()[ExifTags.Base.Artist] == "Somebody"


def test_alpha_survives(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "leaf.png"
    Image.new("RGBA", (30, 20), (250, 80, 20, 77)).save(path)
    for name in ("/stylize", "/preview"):
        result = load(client.predict(_upload(path), "udnie", api_name=name))
        assert result.getchannel("A").getextrema() == (77, 77)


@pytest.mark.parametrize("nothing", [(0, 255), (255, 0)], ids=["black", "clear"])
def test_a_mask_limits_the_painting(
    client: Any, tmp_path: Path, nothing: tuple[int, int]
) -> None:
    photo, mask = tmp_path / "photo.png", tmp_path / "mask.png"
    picture = Image.effect_mandelbrot((1000, 60), (-2, -1.5, 1, 1.5), 80)
    picture.convert("RGB").save(photo)
    image = Image.new("LA", (1000, 60), nothing)
    image.paste((255, 255), (0, 0, 501, 60))
    image.save(mask)
    result = client.predict(
        _upload(photo), "udnie", mask=_upload(mask), api_name="/stylize"
    )
    changed = (np.asarray(load(result)) != np.asarray(load(photo))).any(-1)
    assert changed[:, :501].mean() > 0.9
    assert not changed[:, 501:].any()


def test_any_picture_is_a_style(client: Any, photo: Path, painting: str) -> None:
    given = {"style_image": _upload(painting)}
    result = client.predict(_upload(photo), **given, api_name="/stylize")
    assert Path(result).name == "photo-Sun-flowers.jpg"
    assert "Sun-flowers" in load(result).getexif()[ExifTags.Base.Software]
    preview = client.predict(_upload(photo), **given, api_name="/preview")
    assert load(preview).size == (96, 64)
    archive = client.predict([_upload(photo)], **given, api_name="/stylize_batch")
    with zipfile.ZipFile(archive) as zipped:
        assert zipped.namelist() == ["photo-Sun-flowers.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"The picture of a picture.", r"art\.png is not an image"),
        (b"", r"art\.png is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"art\.png is not an image"),
    ],
)
def test_a_style_image_that_is_none_is_refused(
    client: Any, photo: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "art.png"
    path.write_bytes(content)
    given = {"style_image": _upload(path)}
    for name in ("/stylize", "/preview"):
        with pytest.raises(Exception, match=message) as refusal:
            client.predict(_upload(photo), **given, api_name=name)
        assert SENTENCE.fullmatch(str(refusal.value))
        assert "/tmp" not in str(refusal.value)


def test_a_style_image_over_the_limits_is_refused(
    client: Any, photo: Path, tmp_path: Path
) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (3000, 2000)).save(path)
    with pytest.raises(Exception, match="4 megapixels; make it smaller first"):
        client.predict(_upload(photo), style_image=_upload(path), api_name="/stylize")


def test_many_photos_come_as_a_zip_that_says_what_is_left_out(
    client: Any, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    files = [_upload(photo), _upload(broken), _upload(photo)]
    with zipfile.ZipFile(
        client.predict(files, "melencolia", api_name="/stylize_batch")
    ) as zipped:
        assert zipped.namelist() == [
            *("photo-melencolia.jpg", "photo-melencolia-2.jpg", "left-out.txt")
        ]
        assert b"broken.png is not an image" in zipped.read("left-out.txt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"style": "nothing"}, "There is no style 'nothing' here"),
        ({"style": "/etc/passwd"}, "There is no style"),
        ({"style": "stranger/style"}, "does not allow the Hub style stranger/style"),
        ({"style": "allowed/style"}, "allowed/style cannot be fetched"),
        ({"second_style": "nothing"}, "There is no style 'nothing' here"),
        ({"second_style": "allowed/style"}, "allowed/style cannot be fetched"),
        ({"strength": 7}, r"The strength is a number between 0 and 1\."),
        ({"strength": "0.5"}, r"The strength is a number between 0 and 1\."),
        ({"strength": None}, r"The strength is a number between 0 and 1\."),
        ({"style_scale": 1000}, r"The stroke size is a number between 0\.25 and 4\."),
        (
            {"second_style": "melencolia", "mix": None},
            r"The mix is a number between 0 and 1\.",
        ),
        ({"preserve_color": "false"}, "must be true or false"),
        ({"image": None}, "Choose a photo first"),
    ],
)
def test_a_wrong_call_is_answered_with_a_sentence(
    client: Any, photo: Path, arguments: dict[str, Any], message: str
) -> None:
    call = {"image": _upload(photo), "style": "udnie", **arguments}
    with pytest.raises(Exception, match=message) as refusal:
        client.predict(**call, api_name="/stylize")
    assert SENTENCE.fullmatch(str(refusal.value))
    assert "/tmp" not in str(refusal.value)


def test_an_upload_that_is_no_picture_is_refused(client: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.svg"
    path.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    with pytest.raises(Exception, match=r"page\.svg is not an image"):
        client.predict(_upload(path), "udnie", api_name="/stylize")


def _post(server: Server, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        server.url + path, data=body, headers={"Content-Type": kind}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def _get(server: Server, path: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(server.url + path, timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {}


def _multipart(name: str, content: bytes) -> tuple[bytes, str]:
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"'
    body = f"{head}\r\nContent-Type: image/png\r\n\r\n".encode() + content
    return body + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


def _upload_raw(server: Server, name: str, content: bytes) -> str:
    status, answer = _post(server, "gradio_api/upload", *_multipart(name, content))
    assert status == 200, answer
    return str(json.loads(answer)[0])


def test_files_of_the_machine_cannot_be_had(server: Server, style_folder: Path) -> None:
    wanted = [Path("/etc/passwd"), next(style_folder.glob("*.safetensors")), server.log]
    for path in wanted:
        for spelling in (str(path), f"{server.uploads}/../..{path}", f"%2e%2e{path}"):
            status, content, _ = _get(
                server, "gradio_api/file=" + urllib.parse.quote(spelling, safe="/%")
            )
            assert status >= 400
            assert content != path.read_bytes()


def test_an_uploaded_page_is_not_shown_as_one(server: Server) -> None:
    for name in ("page.html", "page.svg"):
        path = _upload_raw(server, name, b"<script>alert(1)</script>")
        status, _, headers = _get(server, f"gradio_api/file={path}")
        assert status == 200
        safe = headers.get("content-disposition", "").startswith("attachment")
        assert safe or "sandbox" in headers.get("content-security-policy", "")


def test_an_upload_cannot_choose_its_place(server: Server) -> None:
    path = Path(_upload_raw(server, "../../../../evil.png", b"x"))
    assert server.uploads in path.resolve().parents


def test_an_upload_over_the_limit_is_refused(server: Server) -> None:
    body, kind = _multipart("big.png", bytes(9 * 2**20))
    status, _ = _post(server, "gradio_api/upload", body, kind)
    assert status == 413


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize("end", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_no_upload_stays_when_the_page_ends(
    end: str, style_folder: Path, styles: list[StyleInfo], tmp_path: Path
) -> None:
    with serving(style_folder, tmp_path) as (server, process):
        path = Path(_upload_raw(server, "secret.png", b"private"))
        with urllib.request.urlopen(f"{server.url}gradio_api/heartbeat/a-tab"):
            process.send_signal(signal.Signals[end])
            process.wait(60)
    if end == "SIGKILL":
        assert path.exists()
        Studio(styles, folder=server.uploads).clean(-1)
    assert not path.exists()


def _call(server: Server, name: str, data: Any) -> tuple[str, str]:
    """Call an endpoint; returns the last event, 'complete' or 'error', and its data."""
    body = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
    status, answer = _post(server, f"gradio_api/call/{name}", body, "application/json")
    if status >= 400:
        return "error", answer.decode()
    event = json.loads(answer)["event_id"]
    _, stream, _ = _get(server, f"gradio_api/call/{name}/{event}")
    last = stream.decode().strip().split("\n\n")[-1]
    kind, _, content = last.partition("\n")
    return kind.removeprefix("event: "), content.removeprefix("data: ")


def test_200_malformed_calls_are_refused_cleanly(server: Server) -> None:
    chance = random.Random(6)
    picture = io.BytesIO()
    Image.effect_noise((24, 16), 60).save(picture, "PNG")
    png = picture.getvalue()
    good = {
        "path": _upload_raw(server, "good.png", png),
        "meta": {"_type": "gradio.FileData"},
    }
    valid = [good, "udnie", 1, 1, False, "", 0.5, None, None]

    def broken_file() -> Any:
        data = bytearray(png)
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        data = data[: chance.randrange(len(data))]
        suffix = chance.choice(["png", "jpg", "svg", "html", "tif", "gif", "exe", ""])
        return {**good, "path": _upload_raw(server, f"bad.{suffix}", bytes(data))}

    files = [
        *(lambda: None, broken_file, broken_file, broken_file),
        *(lambda: 7, lambda: "text", list, dict, lambda: [good, good]),
        lambda: {**good, "path": "/etc/passwd"},
        lambda: {**good, "path": good["path"] + "/../../../../etc/passwd"},
        lambda: {**good, "path": "x" * 5000},
        lambda: {**good, "path": None, "url": "file:///etc/passwd"},
        lambda: {**good, "path": None, "url": "data:image/png;base64,AAAA"},
        lambda: {**good, "path": "http://127.0.0.1:1/x.png"},
        lambda: {**good, "path": [1, 2]},
    ]
    numbers = [math.nan, math.inf, -math.inf, 1e308, -1, 10**400, "1", "", [], {}, True]
    names = [
        "",
        "nothing",
        "../udnie",
        "/etc/passwd",
        "a/b",
        "\0",
        "x" * 500,
        3,
        [],
        {},
    ]
    wrong = {
        0: files,
        1: names,
        2: numbers,
        3: numbers,
        5: names[1:],
        6: [*numbers, None],
        7: files[1:],
        8: files[1:],
    }
    outcomes: dict[str, int] = {}
    for number in range(200):
        data: Any = list(valid)
        if number % 10 == 0:
            data = chance.choice(
                [
                    [],
                    [None] * 9,
                    valid[:2],
                    [*valid, 1, 2],
                    b"{",
                    b"",
                    b"[]",
                    b'{"data": 7}',
                ]
            )
        for index in chance.sample(sorted(wrong), chance.randrange(1, 4)):
            if isinstance(data, list) and len(data) == 9:
                value = chance.choice(wrong[index])
                data[index] = value() if callable(value) else value
        kind, content = _call(server, chance.choice(["stylize", "preview"]), data)
        outcomes[kind] = outcomes.get(kind, 0) + 1
        assert "Traceback" not in content, data
        assert "root:" not in content, data
        assert len(content) < 2000, data
        if number % 50 == 49:
            assert _call(server, "stylize", valid)[0] == "complete"
    assert outcomes["error"] > 150
    assert "Traceback (most recent" not in _own_part_of(server.log.read_text())


@pytest.mark.parametrize("meta", [{}, {"meta": {}}, {"meta": {"_type": "x"}}])
@pytest.mark.parametrize("index", [0, 7, 8], ids=["image", "mask", "style_image"])
def test_of_a_file_that_was_not_uploaded_nothing_is_told_or_changed(
    server: Server, tmp_path: Path, meta: dict[str, Any], index: int
) -> None:
    secret, text, uploaded = tmp_path / "secret.png", tmp_path / "text", io.BytesIO()
    Image.new("RGB", (7, 5)).save(secret)
    text.write_text("no picture")
    Image.new("RGB", (7, 5)).save(uploaded, "PNG")
    data: list[Any] = [None, "udnie", 0, 1, False, "", 0.5, None, None]
    data[0] = {
        "path": _upload_raw(server, "good.png", uploaded.getvalue()),
        "meta": {"_type": "gradio.FileData"},
    }
    os.utime(secret, (1e9, 1e9))
    around = f"{server.uploads}/../"
    for path in (secret, text, tmp_path / "nothing", tmp_path, around + "log", around):
        data[index] = {"path": str(path), **meta}
        for name in ("stylize", "preview"):
            kind, answer = _call(server, name, data)
            assert kind == "error"
            assert "Upload the picture first." in answer
            assert str(tmp_path.parent) not in answer
    assert secret.stat().st_mtime == 1e9


def _own_part_of(log: str) -> str:
    """Return the log without tracebacks that never enter our package."""
    blocks = log.split("Traceback (most recent call last):")
    package = str(ROOT / "styleplug") + os.sep
    ours = [block for block in blocks[1:] if package in block]
    return "".join(f"Traceback (most recent call last):{block}" for block in ours)


def test_visitors_at_the_same_time_are_all_served(server: Server, photo: Path) -> None:
    from gradio_client import Client

    def visit(number: int) -> tuple[int, int]:
        client = Client(server.url, verbose=False)
        result = client.predict(_upload(photo), STYLES[number % 3], api_name="/stylize")
        return load(result).size

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(visit, range(8))) == {(96, 64)}


def test_an_agent_finds_and_calls_the_tools(server: Server, photo: Path) -> None:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    picture = base64.b64encode(photo.read_bytes()).decode()

    async def talk() -> tuple[dict[str, Any], str, list[Any], list[Any]]:
        url = f"{server.url}gradio_api/mcp/"
        async with (
            streamable_http_client(url) as (read, write, *_),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            answer = await session.call_tool("list_styles", {})
            asked = {"image": f"data:image/png;base64,{picture}", "style": "udnie"}
            whole = await session.call_tool("stylize", asked)
            small = await session.call_tool("preview", asked)
            return tools, str(answer.content), whole.content, small.content

    tools, listing, whole, small = asyncio.run(talk())
    assert set(tools) == {"stylize", "preview", "list_styles"}
    assert "starry-night" in listing
    for content in (whole, small):
        assert load(io.BytesIO(base64.b64decode(content[0].data))).size == (96, 64)
    _, _, address = whole[1].text.partition("Image URL: ")
    with urllib.request.urlopen(address, timeout=60) as file:
        painted = load(io.BytesIO(file.read()))
    assert painted.getexif()[ExifTags.Base.Artist] == "Somebody"
    stylize = tools["stylize"]
    assert "2 is a brush twice as large" in json.dumps(stylize.inputSchema)
    assert "painting" in (stylize.description or "")
    assert "Any picture, to paint in its style" in json.dumps(stylize.inputSchema)


def test_nothing_of_a_visitor_is_in_the_log(
    server: Server, tmp_path: Path, client: Any
) -> None:
    path = tmp_path / "private-holiday.png"
    Image.new("RGB", (20, 20)).save(path)
    client.predict(_upload(path), "udnie", api_name="/stylize")
    path.write_bytes(b"no picture")
    with pytest.raises(Exception, match="private-holiday"):
        client.predict(_upload(path), "udnie", api_name="/stylize")
    moving = path.with_suffix(".gif")
    frames = [Image.new("L", (20, 20), value) for value in (0, 255)]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    client.predict(_upload(moving), "udnie", api_name="/stylize")
    assert "private-holiday" not in server.log.read_text()
