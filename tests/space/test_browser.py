"""The page in a real Chromium, as a visitor meets it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import require
from tests.space.conftest import HOSTILE, Server

pytestmark = pytest.mark.browser

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


class Visitor:
    """A browser at the page, and what one does with it."""

    def __init__(self, url: str, folder: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for option in (*OPTIONS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(option)
        options.set_capability(
            "goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"}
        )
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.downloads = folder / "downloads"
        self.url = url
        self.command(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(self.downloads),
        )

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def come(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        self.driver.get(self.url)
        self.wait(lambda: self.find("#picker input[type=radio]:checked"))
        self.wait(lambda: self.find("#photo input[type=file]"))
        self.wait(lambda: self.find("#examples button"))

    def find(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except (WebDriverException, OSError):  # the page was just changing
                pass
            assert time.monotonic() < end, f"waited in vain; status: {self.status}"
            time.sleep(0.1)

    @property
    def status(self) -> str:
        return " ".join(element.text for element in self.find("#status, #batch-status"))

    def press(self, text: str) -> None:
        """Press the visible button of this text."""

        from selenium.common.exceptions import WebDriverException

        def pressed() -> bool:
            for button in self.find("button, a[download]"):
                # Gradio has each tab twice, one of them under the other.
                with contextlib.suppress(WebDriverException):
                    if button.text.startswith(text) and button.is_displayed():
                        button.click()
                        return True
            return False

        self.wait(pressed)

    def upload(self, path: Path, selector: str = "#photo input[type=file]") -> None:
        self.find(selector)[0].send_keys(str(path))

    def see_preview(self) -> str:
        return str(self.wait(lambda: "Preview" in self.status and self.painting()))

    def painting(self) -> str:
        """Return what tells the painting on show from others, by its pixels."""
        sources = self.run(
            "return [...document.querySelectorAll('#compare img')].map(i => i.src)"
        )
        if len(sources) < 2 or not all(sources):
            return ""
        files = [urllib.request.urlopen(file, timeout=30).read() for file in sources]
        return hashlib.sha256(b"".join(files)).hexdigest()

    def choose(self, style: str) -> None:
        selector = f"#picker input[value='{style}']"
        self.run("document.querySelector(arguments[0]).click()", selector)

    def downloaded(self) -> Path:
        def complete() -> Path | None:
            files = [p for p in self.downloads.glob("*") if p.suffix != ".crdownload"]
            return files[0] if files else None

        path: Path = self.wait(complete)
        return path


@pytest.fixture(scope="module")
def browser(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require(find_spec("selenium"), "needs selenium")
    require(shutil.which("chromium"), "needs Chromium")
    require(shutil.which("chromedriver"), "needs the driver of Chromium")
    visitor = Visitor(server.url, tmp_path_factory.mktemp("browser"))
    yield visitor
    visitor.driver.quit()


@pytest.fixture
def visitor(browser: Visitor) -> Visitor:
    shutil.rmtree(browser.downloads, ignore_errors=True)
    browser.come()
    return browser


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    y, x = np.mgrid[0:600, 0:900]
    pixels = np.stack(
        [x * 255 // 899, y * 255 // 599, (x // 60 + y // 60) % 2 * 200], -1
    )
    path = tmp_path / "holiday.jpg"
    Image.fromarray(pixels.astype(np.uint8)).save(path, quality=90)
    return path


def test_upload_choose_adjust_compare_download(visitor: Visitor, photo: Path) -> None:
    visitor.upload(photo)
    first = visitor.see_preview()
    visitor.choose("udnie")
    visitor.wait(lambda: visitor.painting() != first)
    second = visitor.see_preview()
    strength = visitor.find("input[type=range][aria-label*=Strength]")[0]
    visitor.run("arguments[0].focus()", strength)
    strength.send_keys("\ue012" * 40)
    visitor.wait(lambda: visitor.painting() != second)
    visitor.see_preview()
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)
    visitor.press("Download")
    path = visitor.downloaded()
    assert path.name == "holiday-udnie.jpg"
    with Image.open(path) as painted:
        assert (painted.format, painted.size) == ("JPEG", (900, 600))
    visitor.choose("melencolia")
    visitor.wait(lambda: "Preview" in visitor.status)
    assert not [b for b in visitor.find("button, a") if b.text == "Download"]
    other = visitor.painting()
    visitor.choose("udnie")
    visitor.wait(lambda: visitor.painting() != other)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A picture that takes a while to paint."""
    path = tmp_path / "large.png"
    Image.effect_noise((2000, 1990), 90).save(path, compress_level=1)
    return path


def test_a_painting_stays_though_a_setting_was_changed_meanwhile(
    visitor: Visitor, large: Path
) -> None:
    visitor.upload(large)
    visitor.see_preview()
    visitor.run(_WHEN_STOP_SHOWS, "#picker input[value='udnie']")
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)
    assert visitor.run("return window.chosen")
    time.sleep(2)
    assert "ready to download" in visitor.status
    visitor.press("Download")
    assert visitor.downloaded().name == "large-melencolia.png"


def test_what_is_chosen_while_a_painting_is_stopped_is_previewed(
    visitor: Visitor, large: Path
) -> None:
    visitor.upload(large)
    first = visitor.see_preview()
    visitor.run(_WHEN_STOP_SHOWS, "#picker input[value='udnie']")
    visitor.press("Paint in full size")
    visitor.press("Stop")
    visitor.wait(lambda: visitor.painting() != first)
    visitor.see_preview()
    assert visitor.run("return window.chosen")
    assert [b for b in visitor.find("button") if b.text == "Paint in full size"]


def test_a_painting_can_be_asked_for_again_as_soon_as_it_is_stopped(
    visitor: Visitor, large: Path
) -> None:
    visitor.upload(large)
    visitor.see_preview()
    for button in ("Paint in full size", "Stop", "Paint in full size"):
        visitor.press(button)
    visitor.wait(lambda: "ready to download" in visitor.status)


_WHEN_STOP_SHOWS = """
const click = () => {
  const buttons = [...document.querySelectorAll('#actions button')];
  if (buttons.some(b => b.innerText === 'Stop' && b.offsetParent)) {
    document.querySelector(selector).click();
    window.chosen = true;
  } else setTimeout(click, 10);
};
const selector = arguments[0];
click();
"""


def test_an_example_runs_with_one_click(visitor: Visitor) -> None:
    visitor.run("arguments[0].click()", visitor.find("#examples button")[0])
    visitor.see_preview()
    visitor.press("Another photo")
    visitor.wait(lambda: visitor.find("#photo input[type=file]"))
    visitor.wait(lambda: "Choose a photo" in visitor.status)


def test_an_example_that_was_removed_since_can_be_chosen_again(
    visitor: Visitor, server: Server
) -> None:
    visitor.run("arguments[0].click()", visitor.find("#examples button")[2])
    visitor.see_preview()
    for photo in server.uploads.rglob("harbour.jpg"):
        photo.unlink()
    visitor.press("Paint in full size")
    visitor.wait(lambda: "no longer here; choose it again" in visitor.status)
    visitor.run("arguments[0].click()", visitor.find("#examples button")[2])
    visitor.see_preview()
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)


def test_the_last_example_chosen_is_the_one_shown(visitor: Visitor) -> None:
    visitor.run(
        "const all = document.querySelectorAll('#examples button');"
        "all[2].click(); setTimeout(() => all[4].click(), 10)"
    )
    visitor.see_preview()
    time.sleep(2)
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)
    visitor.press("Download")
    assert visitor.downloaded().name.startswith("still-life")


def test_search_and_groups(visitor: Visitor) -> None:
    def shown() -> list[str]:
        return [e.text for e in visitor.find("#picker .title") if e.is_displayed()]

    headings = [element.text for element in visitor.find("#picker h3")]
    assert headings == ["16th century", "19th century", "20th century"]
    assert shown() == ["Melencolia I", "The Starry Night", HOSTILE]
    assert visitor.run("return window.taken") is None
    search = visitor.find("#picker input[type=search]")[0]
    search.send_keys("gogh 1889")
    assert shown() == ["The Starry Night"]
    search.send_keys(" nobody")
    assert shown() == []
    assert "No style matches" in visitor.find("#picker")[0].text


def test_the_visitor_s_own_paintings_are_styles(
    visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    def titles() -> list[str]:
        return [element.text for element in visitor.find("#picker .title")]

    def bring(path: Path) -> None:
        visitor.upload(path, "#own-part input[type=file]")

    def said() -> str:
        return visitor.find("#own-status")[0].text

    text = tmp_path / "text.png"
    text.write_text("The picture of a picture.")
    paintings = [tmp_path / "Sun & flowers.png", tmp_path / "Irises.png"]
    for number, path in enumerate(paintings):
        extent = (-2, -1.5, 1 - number, 1.5)
        Image.effect_mandelbrot((300, 200), extent, 80).save(path)

    visitor.upload(photo)
    first = visitor.see_preview()
    bring(text)
    visitor.wait(lambda: "text.png is not an image" in said())
    assert visitor.painting() == first
    for path in paintings:
        before = visitor.painting()
        bring(path)
        visitor.wait(lambda stem=path.stem: f"{stem} is now a style" in said())
        visitor.wait(lambda now=before: visitor.painting() != now)
        visitor.see_preview()
    assert titles()[:3] == ["Irises", "Sun & flowers", "Melencolia I"]
    assert visitor.find("#picker h3")[0].text == "Your own paintings"


def test_own_paintings_chosen_one_after_another_are_all_looked_at(
    visitor: Visitor, tmp_path: Path
) -> None:
    paintings = [tmp_path / "Irises.png", tmp_path / "Sunflowers.png"]
    for path in paintings:
        Image.effect_noise((2000, 1990), 90).save(path, compress_level=1)
    search = visitor.find("#picker input[type=search]")[0]
    search.send_keys("gogh")
    visitor.run(_WATCH_THE_OWN_PART)
    for path in paintings:
        visitor.upload(path, "#own-part input[type=file]")
    visitor.wait(
        lambda: "Sunflowers is now a style" in visitor.find("#own-status")[0].text
    )
    assert visitor.run("return window.told") == '"Looking at your painting…"'
    tiles = visitor.find("#picker label")
    assert [e.text for e in tiles[:2]] == ["Sunflowers", "Irises"]
    assert all(e.is_displayed() for e in tiles)
    assert search.get_attribute("value") == ""


_WATCH_THE_OWN_PART = """
new MutationObserver(() => {
  const pending = document.querySelector('#own-status .pending');
  if (pending?.offsetParent)
    window.told ??= getComputedStyle(pending, '::before').content;
}).observe(
  document.querySelector('#own-part'),
  {subtree: true, childList: true, attributes: true},
);
"""


def test_a_visitor_for_whom_the_queue_is_full_can_try_again(
    visitor: Visitor, photo: Path
) -> None:
    visitor.upload(photo)
    first = visitor.see_preview()
    visitor.run(_FULL_QUEUE)
    visitor.press("Paint in full size")
    visitor.wait(lambda: "too many are waiting" in visitor.status)
    visitor.run("window.fetch = window.free")
    visitor.choose("udnie")
    visitor.wait(lambda: visitor.painting() != first)
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)


_FULL_QUEUE = """
window.free = window.fetch;
window.fetch = (url, options) => String(url).includes('queue/join')
  ? Promise.resolve(new Response('{"detail": "Queue is full."}', {status: 503}))
  : window.free(url, options);
"""


def _take_the_brush(visitor: Visitor) -> Any:
    """Open the brush; returns its canvas, with the photo on it."""
    visitor.press("Only a part of the picture")
    canvas = visitor.wait(lambda: visitor.find("#editor canvas"))[0]
    visitor.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
    visitor.wait(lambda: _shows_a_photo(canvas))
    return canvas


def _shows_a_photo(canvas: Any) -> bool:
    shown = Image.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB")
    return shown.getcolors(1000) is None


def _draw(visitor: Visitor, canvas: Any) -> None:
    """Draw a stroke across the middle."""
    from selenium.webdriver import ActionChains

    stroke = ActionChains(visitor.driver).move_to_element_with_offset(canvas, -60, 0)
    stroke.click_and_hold().move_by_offset(60, 20).move_by_offset(60, -20).release()
    stroke.perform()


def _changed(visitor: Visitor) -> Any:
    """Return where the painting on show differs from the photo beside it."""
    sources = visitor.run(
        "return [...document.querySelectorAll('#compare img')].map(i => i.src)"
    )
    before, after = (
        np.asarray(
            Image.open(urllib.request.urlopen(s, timeout=30)).convert("RGB"), int
        )
        for s in sources
    )
    return np.abs(after - before).max(-1) > 12


def test_only_a_part_is_painted(visitor: Visitor, photo: Path) -> None:
    visitor.upload(photo)
    whole = visitor.see_preview()
    _draw(visitor, _take_the_brush(visitor))
    visitor.wait(lambda: visitor.painting() != whole)
    visitor.see_preview()
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)
    visitor.press("Download")
    with Image.open(visitor.downloaded()) as painted, Image.open(photo) as before:
        difference = np.abs(np.asarray(painted, float) - np.asarray(before)).max(-1)
    assert (difference[:40, :40] < 12).all()
    assert (difference > 40).any()
    marked = visitor.painting()
    visitor.run(
        "document.querySelectorAll('input[type=radio]').forEach(e => {"
        "if (e.value === 'Keep what I mark') e.click() })"
    )
    visitor.wait(lambda: visitor.painting() != marked)
    visitor.see_preview()
    visitor.press("Paint in full size")
    visitor.wait(lambda: "ready to download" in visitor.status)
    visitor.downloaded().unlink()
    visitor.press("Download")
    with Image.open(visitor.downloaded()) as painted, Image.open(photo) as before:
        inverted = np.abs(np.asarray(painted, float) - np.asarray(before)).max(-1)
    assert (inverted[difference > 40] < 40).any()
    assert (inverted[:40, :40] > 12).any()


def test_a_stroke_counts_though_the_painting_is_asked_for_at_once(
    visitor: Visitor, photo: Path
) -> None:
    visitor.upload(photo)
    visitor.see_preview()
    canvas = _take_the_brush(visitor)
    visitor.run(_PAINT_AS_THE_STROKE_ENDS)
    _draw(visitor, canvas)
    visitor.wait(lambda: "ready to download" in visitor.status)
    changed = _changed(visitor)
    assert changed[:, :430].any()
    assert changed[:, 470:].any()
    assert not changed[:100].any()


_PAINT_AS_THE_STROKE_ENDS = """
const paint = [...document.querySelectorAll('#actions button')]
  .find(b => b.innerText === 'Paint in full size');
addEventListener('pointerup', () => setTimeout(() => paint.click()), {once: true});
"""


def test_a_brush_that_was_cleared_has_the_photo_still(
    visitor: Visitor, photo: Path
) -> None:
    with Image.open(photo) as image:
        image.crop((0, 0, 900, 300)).save(photo)  # not a canvas's shape
    visitor.upload(photo)
    whole = visitor.see_preview()
    canvas = _take_the_brush(visitor)
    _draw(visitor, canvas)
    visitor.wait(lambda: visitor.painting() != whole)
    visitor.run(
        "document.querySelector('#editor [aria-label=\"Clear canvas\"]').click()"
    )
    visitor.wait(lambda: visitor.painting() == whole)
    visitor.wait(lambda: _shows_a_photo(canvas))
    _draw(visitor, canvas)
    visitor.wait(lambda: visitor.painting() != whole)
    visitor.see_preview()
    rows, columns = np.nonzero(_changed(visitor))
    assert 0 < np.ptp(rows) < np.ptp(columns) < 300


def test_what_is_no_picture_is_answered_on_the_page(
    visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    for name in ("broken", "damaged"):
        broken = tmp_path / f"{name}.png"
        broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
        visitor.upload(broken)
        visitor.wait(lambda name=name: f"{name}.png is not an image" in visitor.status)
        assert visitor.find("#status [role=alert]")
        visitor.wait(lambda: visitor.find("#photo input[type=file]"))
    large = tmp_path / "large.png"
    Image.new("1", (3000, 2000)).save(large)
    visitor.upload(large)
    visitor.wait(lambda: "4 megapixels; make it smaller first" in visitor.status)
    visitor.wait(lambda: visitor.find("#photo input[type=file]"))
    visitor.upload(photo)
    visitor.see_preview()


def test_a_folder_of_pictures_becomes_a_zip(
    visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    visitor.press("Many pictures")
    visitor.wait(lambda: visitor.find("#batch-files input[type=file]"))
    visitor.find("#batch-files input[type=file]")[0].send_keys(f"{photo}\n{broken}")
    visitor.wait(lambda: "holiday" in visitor.find("#batch-files")[0].text)
    visitor.press("Paint all")
    visitor.wait(lambda: "1 picture painted" in visitor.status)
    assert "broken.png" in visitor.status
    visitor.press("Download zip")
    with zipfile.ZipFile(visitor.downloaded()) as zipped:
        assert zipped.namelist() == ["holiday-melencolia.jpg", "left-out.txt"]
    again = [b for b in visitor.find("button") if b.text == "Paint all"]
    assert again[0].is_displayed()
    visitor.upload(broken, "#batch-files input[type=file]")
    visitor.wait(lambda: not visitor.status.strip())


def test_stop_ends_the_work_and_the_page_goes_on(
    visitor: Visitor, photo: Path, tmp_path: Path
) -> None:
    large = [tmp_path / f"{number}.png" for number in range(4)]
    for path in large:
        Image.effect_noise((2000, 1990), 90).save(path, compress_level=1)
    visitor.press("Many pictures")
    visitor.wait(lambda: visitor.find("#batch-files input[type=file]"))
    files = "\n".join(str(path) for path in large)
    visitor.find("#batch-files input[type=file]")[0].send_keys(files)
    visitor.wait(lambda: len(visitor.find("#batch-files tr")) == 4)
    for button in ("Paint all", "Stop", "Paint all"):
        visitor.press(button)
    visitor.wait(lambda: "4 pictures painted" in visitor.status)
    visitor.press("Paint all")
    visitor.press("Stop")
    visitor.wait(lambda: "Stopped." in visitor.status)
    assert not [b for b in visitor.find("button, a") if b.text == "Download zip"]
    visitor.press("One picture")
    visitor.upload(photo)
    visitor.see_preview()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_controls_are_labelled_legible_and_fit(
    visitor: Visitor, photo: Path, width: int, dark: bool
) -> None:
    visitor.come(width, 740, dark=dark)
    visitor.upload(photo)
    visitor.see_preview()
    assert visitor.run("return document.documentElement.scrollWidth") <= width
    assert visitor.run(_UNLABELLED) == []
    assert visitor.run(_PALE_TEXT) == []


_UNLABELLED = """
return [...document.querySelectorAll('button, input, select, textarea, [role=slider]')]
  .filter(e => e.offsetParent && e.type !== 'file')
  .filter(e => !(e.ariaLabel || e.title || e.innerText?.trim() || e.labels?.length
    || e.getAttribute('aria-labelledby') || e.querySelector('img[alt]')))
  .map(e => e.outerHTML.slice(0, 200))
"""

_PALE_TEXT = """
const context = document.createElement('canvas').getContext('2d', {colorSpace: 'srgb'});
const rgba = (text) => {
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = text;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data].map(v => v / 255);
};
const luminance = (rgb) => rgb.slice(0, 3)
  .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = rgba(getComputedStyle(e).backgroundColor);
    if (color[3] > 0.9) return color;
  }
  return [1, 1, 1, 1];
};
const pale = [];
const words = /[\\p{L}\\p{N}]/u;
for (const e of document.querySelectorAll('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && words.test(n.data));
  if (!own || !e.offsetParent) continue;
  if (e.closest('[disabled], script, style, noscript')) continue;
  const style = getComputedStyle(e);
  if (style.visibility !== 'visible' || style.opacity === '0') continue;
  const pair = [luminance(rgba(style.color)), luminance(behind(e))];
  const [a, b] = pair.sort((x, y) => y - x);
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < 4.5) pale.push(e.textContent.slice(0, 40) + ' ' + contrast);
}
return pale;
"""


def test_everything_can_be_done_with_the_keyboard(visitor: Visitor) -> None:
    def focused(script: str) -> Any:
        return visitor.run(f"const e = document.activeElement; return {script}")

    def tab_to(condition: str) -> None:
        for _ in range(60):
            visitor.driver.switch_to.active_element.send_keys("\ue004")
            ring = focused("getComputedStyle(e).outlineStyle + e.type")
            assert "none" not in ring or "radio" in ring, focused("e.outerHTML")
            if focused(condition):
                return
        pytest.fail(f"Tab never reaches {condition}")

    tab_to("e.closest('#examples') !== null && e.tagName === 'BUTTON'")
    visitor.driver.switch_to.active_element.send_keys("\ue007")
    first = visitor.see_preview()
    tab_to("e.name === 'style'")
    chosen = focused("e.value")
    visitor.driver.switch_to.active_element.send_keys("\ue014")
    visitor.wait(lambda: focused("e.value") != chosen)
    assert focused("e.checked && e.name === 'style'")
    visitor.wait(lambda: visitor.painting() != first)
    tab_to("e.type === 'range'")
    tab_to("e.type === 'checkbox'")
    visitor.driver.switch_to.active_element.send_keys(" ")
    assert focused("e.checked")


def test_the_page_asks_no_other_host_and_logs_no_error(visitor: Visitor) -> None:
    visitor.driver.get("about:blank")  # which tears the page from its stream
    for log in ("browser", "performance"):
        visitor.driver.get_log(log)  # what that and earlier tests left
    visitor.driver.get(visitor.url)
    visitor.wait(lambda: visitor.find("#examples button"))
    visitor.run("arguments[0].click()", visitor.find("#examples button")[1])
    visitor.see_preview()
    hosts = set()
    for entry in visitor.driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
            if address.startswith(("http", "ws")):
                hosts.add(address.split("/")[2])
    assert hosts == {visitor.url.split("/")[2]}
    entries = visitor.driver.get_log("browser")
    errors = [e["message"] for e in entries if e["level"] == "SEVERE"]
    # Gradio takes back a picture it was loading when the next one arrives.
    assert [e for e in errors if "AbortError" not in e] == []
