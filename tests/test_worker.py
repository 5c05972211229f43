"""The worker as a child process, spoken to by the client of the protocol page."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from styleplug import __version__, worker

ROOT = Path(__file__).parents[1]
STANDIN = [sys.executable, "-u", str(ROOT / "tests" / "gimp" / "standin_worker.py")]
REAL = [sys.executable, "-u", "-m", "styleplug", "worker"]
SECONDS_TO_END = 30
"""On a busy machine; it is otherwise a matter of milliseconds."""


def page_client():
    """Return the names of the client that the protocol page prints."""
    page = (ROOT / "gimp_plugin" / "PROTOCOL.md").read_text("utf-8")
    names = {}
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], names)
    return names


CLIENT = page_client()


@pytest.fixture
def connect(monkeypatch):
    """Start workers that end with the test, or fail it."""
    monkeypatch.chdir(ROOT)
    workers = []

    def start(command=STANDIN):
        workers.append(CLIENT["Worker"](command))
        return workers[-1]

    yield start
    for each in workers:
        if not each.process.stdin.closed:
            each.close()
        each.process.stdout.close()


def stylize_header(pixels, style="negative", **fields):
    height, width = pixels.shape[:2]
    return {
        "type": "stylize",
        "style": style,
        "width": width,
        "height": height,
        "format": "u8" if pixels.dtype == np.uint8 else "f32",
        **fields,
    }


def noise(height, width, dtype):
    values = np.random.default_rng(5).random((height, width, 4))
    return (
        np.rint(values * 255).astype(dtype)
        if dtype == "uint8"
        else values.astype(dtype)
    )


def error_of(server):
    while True:
        message, _ = server.receive()
        if message["type"] == "error":
            return message
        assert message["type"] in ("alive", "progress")


def test_hello_tells_version_and_styles(connect):
    answer, data = connect().request({"type": "hello"})
    assert answer["protocol"] == worker.PROTOCOL
    assert answer["version"] == __version__
    assert [style["id"] for style in answer["styles"]] == ["negative", "slow"]
    assert answer["styles"][0].keys() == {"id", "title", "artist", "year", "license"}
    assert data == b""


@pytest.mark.parametrize("field", ["title", "artist", "year", "license"])
def test_hello_tells_of_each_style_in_printable_lines(connect, field):
    code = (
        "from styleplug.style import StyleInfo; from styleplug.worker import main; "
        f"main(list_styles=lambda: [StyleInfo('a', {field}='1\\n\\x00 \\u202e2')])"
    )
    answer, _ = connect([sys.executable, "-uc", code]).request({"type": "hello"})
    assert answer["styles"][0][field] == "1\ufffd\ufffd \ufffd2"


def test_hello_loads_no_torch():
    code = (
        "import sys, styleplug.worker as w; w._list_styles(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_result_is_that_of_the_python_api(connect, tiny_style, dtype):
    from styleplug import Stylizer

    pixels = noise(37, 53, dtype)
    server = connect(REAL)
    parameters = {"strength": 0.7, "style_scale": 1.5, "preserve_color": True}
    answer, data = server.request(
        stylize_header(pixels, str(tiny_style), parameters=parameters),
        pixels.tobytes(),
    )
    result = np.frombuffer(data, dtype).reshape(pixels.shape)
    assert np.array_equal(result, Stylizer(tiny_style)(pixels, **parameters))
    assert np.array_equal(result[..., 3], pixels[..., 3])
    assert answer["device"]
    assert answer["seconds"] >= 0


def test_a_picture_is_a_style_for_as_long_as_it_is_there(connect, tmp_path):
    from PIL import Image

    from styleplug import Stylizer

    pixels = noise(30, 40, "uint8")
    painting = tmp_path / "My painting.JPG"
    server = connect(REAL)

    def request():
        header = stylize_header(pixels, str(painting))
        return server.request(header, pixels.tobytes())[1]

    results = []
    for color in ("orange", "navy"):
        Image.new("RGB", (300, 200), color).save(painting, "JPEG")
        results.append(request())
        assert results[-1] == Stylizer(painting)(pixels).tobytes()
    assert results[0] != results[1]
    painting.unlink()
    with pytest.raises(RuntimeError, match=r"no picture .*My painting\.JPG; check"):
        request()
    painting.write_text("The picture of a picture.")
    with pytest.raises(RuntimeError, match=r"My painting\.JPG is not an image"):
        request()


def test_styles_and_pictures_are_blended(connect, tmp_path):
    from PIL import Image

    from styleplug import Stylizer

    painting = tmp_path / "painting.png"
    Image.linear_gradient("L").save(painting)
    pixels = noise(30, 40, "uint8")
    blend = [["starry-night", 3], [str(painting), 0.5]]
    server = connect(REAL)
    _, data = server.request(stylize_header(pixels, blend), pixels.tobytes())
    assert data == Stylizer(blend)(pixels).tobytes()
    blend[1][1] = 0
    _, data = server.request(stylize_header(pixels, blend), pixels.tobytes())
    assert data == Stylizer("starry-night")(pixels).tobytes()


@pytest.mark.parametrize(
    "style", [None, 3, [], [[]], ["negative"], [["negative"]], [["negative", "1"]]]
)
def test_what_is_no_style_is_refused(connect, style):
    pixels = noise(4, 4, "uint8")
    server = connect(REAL)
    server.send(stylize_header(pixels, style), pixels.tobytes())
    assert error_of(server)["code"] == "InvalidRequest"


def test_what_is_masked_out_comes_back_bit_for_bit(connect, tiny_style):
    pixels = noise(24, 32, "float32") * 3 - 1
    mask = np.zeros((24, 32), np.uint8)
    mask[:, 16:] = 255
    _, data = connect(REAL).request(
        stylize_header(pixels, str(tiny_style), mask=True),
        pixels.tobytes() + mask.tobytes(),
    )
    result = np.frombuffer(data, "float32").reshape(pixels.shape)
    assert np.array_equal(result[:, :16], pixels[:, :16])
    assert not np.array_equal(result[:, 16:], pixels[:, 16:])


def test_page_function_stylizes_and_stray_prints_do_no_harm(connect):
    pixels = noise(3, 5, "uint8")
    data = CLIENT["stylize"](connect(), "negative", 5, 3, pixels.tobytes())
    result = np.frombuffer(data, np.uint8).reshape(pixels.shape)
    assert np.array_equal(result[..., :3], 255 - pixels[..., :3])


def test_progress_rises_and_life_signs_come(connect):
    server = connect()
    pixels = noise(8, 8, "uint8")
    server.send(stylize_header(pixels, "slow"), pixels.tobytes())
    fractions, alive = [], 0
    while alive < 2:
        message, _ = server.receive()
        alive += message["type"] == "alive"
        if message["type"] == "progress":
            fractions.append(message["fraction"])
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert len(set(fractions)) > 2


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({"style": "unheard-of"}, "StyleNotFoundError", id="style"),
        pytest.param({"style": 7}, "InvalidRequest", id="style-type"),
        pytest.param({"format": "f64"}, "InvalidRequest", id="format"),
        pytest.param({"format": []}, "InvalidRequest", id="format-type"),
        pytest.param({"width": 0}, "InvalidRequest", id="zero-width"),
        pytest.param({"width": 9}, "InvalidRequest", id="other-size"),
        pytest.param({"width": "8"}, "InvalidRequest", id="width-type"),
        pytest.param(
            {"width": 1 << 20, "height": 1 << 20}, "ImageTooLargeError", id="huge"
        ),
        pytest.param({"mask": True}, "InvalidRequest", id="no-mask"),
        pytest.param({"mask": 0}, "InvalidRequest", id="mask-type"),
        pytest.param({"parameters": {"strenght": 1}}, "InvalidRequest", id="name"),
        pytest.param({"parameters": {"strength": 7}}, "InvalidRequest", id="value"),
        pytest.param({"parameters": [1]}, "InvalidRequest", id="parameters-type"),
        pytest.param({"type": "explode"}, "InvalidRequest", id="type"),
        pytest.param({"protocol": 2}, "Protocol", id="protocol"),
    ],
)
def test_a_wrong_request_is_refused_and_the_next_one_served(connect, fields, code):
    server = connect()
    pixels = noise(8, 8, "uint8")
    server.send({**stylize_header(pixels), **fields}, pixels.tobytes())
    message = error_of(server)
    assert message["code"] == code
    assert message["id"] == 1
    assert len(message["message"]) > 10
    assert len(server.request(stylize_header(pixels), pixels.tobytes())[1]) == 256


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"GET / HTTP/1.1\r\n", id="not-json"),
        pytest.param(b"[1, 2]\n", id="no-object"),
        pytest.param(b"[" * 60_000 + b"\n", id="deep"),
        pytest.param(b"x" * (worker.MAX_LINE + 10), id="endless-line"),
        pytest.param(b'{"id": 1, "bytes": 1e99}\n', id="no-integer"),
        pytest.param(b'{"id": 1, "bytes": -5}\n', id="negative"),
        pytest.param(b'{"id": 1, "bytes": 99999999999999}\n', id="too-many-bytes"),
        pytest.param(b'{"bytes": 0}\n', id="no-id"),
        pytest.param(b'{"id": 1, "strength": NaN}\n', id="nan"),
        pytest.param(b"\xff\xfe\n", id="no-utf8"),
    ],
)
def test_what_is_no_message_ends_the_worker_with_a_sentence(connect, line):
    server = connect()
    server.process.stdin.write(line)
    server.process.stdin.flush()
    message = error_of(server)
    assert (message["code"], message["id"]) == ("Protocol", None)
    assert server.process.wait(SECONDS_TO_END) == 2


def test_cancel_ends_a_render_soon_and_the_worker_goes_on(connect):
    server = connect()
    pixels = noise(8, 8, "uint8")
    server.send(stylize_header(pixels, "slow", id=3), pixels.tobytes())
    assert server.receive()[0]["type"] == "progress"
    started = time.monotonic()
    server.send({"type": "cancel", "id": 3})
    message = error_of(server)
    assert (message["code"], message["id"]) == ("Cancelled", 3)
    assert time.monotonic() - started < 15  # the whole takes minutes
    assert server.request(stylize_header(pixels), pixels.tobytes())[0]["id"] == 1


def test_a_request_that_fails_after_it_was_cancelled_says_only_that(connect):
    server = connect()
    pixels = noise(8, 8, "uint8")
    server.send(stylize_header(pixels, "late", id=3), pixels.tobytes())
    time.sleep(0.5)
    server.send({"type": "cancel", "id": 3})
    assert error_of(server)["code"] == "Cancelled"


def test_a_waiting_request_can_be_cancelled(connect):
    server = connect()
    pixels = noise(8, 8, "uint8")
    server.send(stylize_header(pixels, "slow", id=1), pixels.tobytes())
    server.send(stylize_header(pixels, id=2), pixels.tobytes())
    server.send({"type": "cancel", "id": 2})
    server.send({"type": "cancel", "id": 1})
    server.send({"type": "cancel", "id": 99})
    assert [error_of(server)["id"] for _ in range(2)] == [1, 2]


def test_too_many_waiting_requests_are_refused(connect):
    server = connect()
    pixels = noise(4, 4, "uint8")
    count = worker.MAX_WAITING + 2
    server.send(stylize_header(pixels, "slow", id=0), pixels.tobytes())
    for number in range(1, count):
        server.send(stylize_header(pixels, id=number), pixels.tobytes())
    for number in reversed(range(count - 2)):  # the slow one last
        server.send({"type": "cancel", "id": number})
    answers = []
    while len(answers) < count:
        message, _ = server.receive()
        if message["type"] in ("result", "error"):
            answers.append(message.get("code", "result"))
    assert answers == ["Cancelled"] * (count - 2) + ["result", "Busy"]


def test_a_cancel_that_comes_too_late_spares_the_next_request_of_that_id(connect):
    server = connect()
    pixels = noise(4, 4, "uint8")
    for _ in range(20):
        server.send(stylize_header(pixels), pixels.tobytes())
        server.send({"type": "cancel", "id": 1})
        while server.receive()[0]["type"] not in ("result", "error"):
            pass
        assert server.request(stylize_header(pixels), pixels.tobytes())[0]["bytes"]


def test_a_cancel_takes_back_all_waiting_requests_of_its_id(connect):
    server = connect()
    pixels = noise(4, 4, "uint8")
    for _ in range(2):
        server.send(stylize_header(pixels, "slow", id=4), pixels.tobytes())
    server.send({"type": "cancel", "id": 4})
    assert [error_of(server)["code"] for _ in range(2)] == ["Cancelled"] * 2


@pytest.mark.parametrize("value", [200.0, np.nan, np.inf])
def test_floats_that_cannot_be_painted_are_refused(connect, tiny_style, value):
    pixels = noise(4, 4, "float32")
    pixels[1, 1] = value
    server = connect(REAL)
    server.send(stylize_header(pixels, str(tiny_style)), pixels.tobytes())
    message = error_of(server)
    assert message["code"] == "InvalidRequest"
    assert re.search("lower its exposure|to 16-bit integers", message["message"])


LIBRARY = """
import os, stat
from styleplug import worker
def load(style):
    os.write(1, b"printed by a library\\n")
    raise ValueError(f"pipe: {stat.S_ISFIFO(os.fstat(0).st_mode)}")
"""


def test_the_pipes_are_not_the_standard_streams_of_libraries(connect):
    """Windows lets nobody ask about a pipe that another thread is reading."""
    server = connect(serve(LIBRARY))
    pixels = noise(4, 4, "uint8")
    for _ in range(2):
        server.send(stylize_header(pixels), pixels.tobytes())
        assert error_of(server)["message"] == "pipe: False"


BUG = """
from styleplug import worker
def check(header, size):
    raise KeyError("oh no")
worker._check = check
def load(style): ...
"""


def test_a_bug_in_reading_ends_the_worker(connect):
    server = connect(serve(BUG))
    server.send({"type": "hello"})
    assert server.process.wait(SECONDS_TO_END) == 2


@pytest.mark.parametrize("moment", ["idle", "amid-a-body", "amid-a-render"])
def test_the_end_of_input_ends_the_worker(connect, moment):
    server = connect()
    server.request({"type": "hello"})
    pixels = noise(8, 8, "uint8")
    if moment == "amid-a-body":
        server.send({**stylize_header(pixels), "bytes": 256}, b"")
    elif moment == "amid-a-render":
        server.send(stylize_header(pixels, "stuck"), pixels.tobytes())
        assert server.receive()[0]["type"] == "progress"
    server.process.stdin.close()
    assert server.process.wait(SECONDS_TO_END) == 0


def test_a_reader_that_goes_away_ends_the_worker(connect):
    server = connect()
    server.request({"type": "hello"})
    pixels = noise(1000, 1000, "uint8")
    server.process.stdout.close()
    server.send(stylize_header(pixels), pixels.tobytes())
    assert server.process.wait(SECONDS_TO_END) == 1


def test_large_pictures_cross_while_the_other_side_is_slow(connect):
    """Neither side may wait for the other to read first."""
    server = connect()
    pixels = noise(600, 800, "float32")
    sender = threading.Thread(
        target=server.send, args=(stylize_header(pixels), pixels.tobytes())
    )
    server.send(stylize_header(pixels, id=5), pixels.tobytes())
    sender.start()
    time.sleep(0.2)
    answers = []
    while len(answers) < 2:
        message, data = server.receive()
        if message["type"] == "result":
            answers.append((message["id"], len(data)))
    sender.join()
    assert answers == [(5, pixels.nbytes), (1, pixels.nbytes)]


def serve(code):
    """The command of a worker that loads styles by the ``load`` of ``code``."""
    return [sys.executable, "-u", "-c", f"{code}\nworker.main(load, list)"]


NO_MEMORY = """
import mmap
from styleplug import worker
class Mmap(mmap.mmap):
    def __new__(cls, fd, size):
        if size > 1000:
            raise OSError(12, "Cannot allocate memory")
        return super().__new__(cls, fd, size)
mmap.mmap = Mmap
def load(style):
    if style == "large":
        raise MemoryError
"""


@pytest.mark.parametrize(
    ("style", "side"), [("any", 20), ("large", 2)], ids=["to-receive", "to-paint"]
)
def test_a_lack_of_memory_is_told_and_the_next_request_served(connect, style, side):
    server = connect(serve(NO_MEMORY))
    pixels = noise(side, side, "uint8")
    server.send(stylize_header(pixels, style, id=7), pixels.tobytes())
    message = error_of(server)
    assert (message["code"], message["id"]) == ("MemoryLimitError", 7)
    assert "make it smaller" in message["message"]
    assert server.request({"type": "hello"})[0]["protocol"] == worker.PROTOCOL


def test_a_bug_is_answered_and_traced(monkeypatch):
    monkeypatch.chdir(ROOT)
    process = subprocess.Popen(
        serve(
            "from styleplug import worker\ndef load(style): raise RuntimeError('oh no')"
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    header = {"type": "stylize", "style": "x", "width": 1, "height": 1, "format": "u8"}
    line = json.dumps({"protocol": 1, "id": 1, "bytes": 4, **header})
    process.stdin.write(line.encode() + b"\n" + bytes(4))
    process.stdin.flush()
    message = json.loads(process.stdout.readline())
    _, errors = process.communicate(timeout=SECONDS_TO_END)
    assert message["code"] == "InternalError"
    assert "oh no" in message["message"]
    assert b"Traceback" in errors
