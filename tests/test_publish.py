"""Publishing to a real HTTP server on loopback, see hub_server."""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file, save_file

from styleplug import Stylizer, hub
from styleplug.cli import main
from styleplug.errors import InvalidImageError, InvalidStyleError
from styleplug.networks import StyleNetwork
from styleplug.style import StyleInfo, read_info
from styleplug.weights import load_style, save_style, save_trunk
from tests.hub_client import ROOT, HubClient, RemoteError, hub_environment
from tests.hub_server import OWNER_TOKEN, Blob, HubServer

INFO = StyleInfo(
    "wave",
    title="The Wave",
    artist="Nobody",
    year="1831",
    license="CC0-1.0",
    artwork="Public domain, the artist died in 1849.",
    training={"seed": 3, "datasets": ["owner/photographs"]},
    figures={"style_distance": 0.25},
)


def write_style(path: Path, **changes: Any) -> Path:
    """Write a small self-contained style file; ``changes`` replace header fields."""
    torch.manual_seed(0)
    network = StyleNetwork((4, 4, 4), (1, 1))
    info = StyleInfo(**{**vars(INFO), **changes})
    save_style(path, network.new_style(), network, info)
    return path


@pytest.fixture
def style(tmp_path: Path) -> Path:
    return write_style(tmp_path / "wave.safetensors")


@pytest.fixture(scope="module")
def client(
    server: HubServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HubClient]:
    client = HubClient(server.url, tmp_path_factory.mktemp("huggingface"))
    yield client
    client.close()


@pytest.fixture(autouse=True)
def _start_empty(server: HubServer) -> None:
    server.repos.clear()
    server.forget_requests()


def test_a_published_style_can_be_pulled_and_loaded(
    server: HubServer, client: HubClient, style: Path
) -> None:
    published = client("hub.publish", str(style), "owner/wave", token=OWNER_TOKEN)
    assert published["revision"] == server.repos["owner/wave"].refs["main"]
    path = client("hub.pull", "owner/wave")
    loaded, original = load_style(path), load_style(style)
    torch.testing.assert_close(loaded.vector, original.vector, rtol=0, atol=0)
    assert loaded.info.trunk == original.info.trunk
    (listed,) = client("hub.list_hub_styles", license="cc0-1.0")
    assert listed["repo_id"] == "owner/wave"


def test_a_pulled_style_paints_without_a_network(
    server: HubServer, tiny_style: Path, content_image: Image.Image, tmp_path: Path
) -> None:
    server.add("owner/tiny", {"model.safetensors": tiny_style})
    client = HubClient(server.url, tmp_path / "huggingface")
    client("hub.pull", "owner/tiny")
    client.close()
    server.forget_requests()
    content_image.save(tmp_path / "photo.png")
    offline = HubClient(server.url, tmp_path / "huggingface", HF_HUB_OFFLINE="1")
    pictures = [str(tmp_path / name) for name in ("photo.png", "painting.png")]
    offline("engine.stylize_file", *pictures, "owner/tiny", device="cpu")
    offline.close()
    with Image.open(tmp_path / "painting.png") as painting:
        assert painting.size == content_image.size
        assert painting.tobytes() != content_image.tobytes()
    assert not server.requests


def test_a_stylizer_is_pushed_and_comes_back_with_its_commit(
    server: HubServer, style: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from styleplug import Stylizer; path, token = sys.argv[1:]; "
        "pushed = Stylizer(path, device='cpu').push_to_hub('owner/wave', token=token); "
        "again = Stylizer.from_pretrained('owner/wave', revision=pushed.revision); "
        "assert again.info.repo_id == 'owner/wave', again.info; "
        "assert again.info.revision == pushed.revision, again.info; "
        "assert 'owner/wave@' + pushed.revision in str(again.provenance())"
    )
    subprocess.run(
        [sys.executable, "-c", code, style, OWNER_TOKEN],
        check=True,
        cwd=ROOT,
        env=hub_environment(server.url, tmp_path / "huggingface"),
    )


def test_a_stylizer_opens_a_private_style_with_its_token_in_its_cache(
    server: HubServer, style: Path, tmp_path: Path
) -> None:
    server.add("owner/mine", {"model.safetensors": style}, private=True)
    code = (
        "import sys; from styleplug import Stylizer; folder, token = sys.argv[1:]; "
        "keywords = {'cache_dir': folder, 'token': token}; "
        "opened = Stylizer('owner/mine', device='cpu', **keywords); "
        "assert opened.info.path.is_relative_to(folder), opened.info"
    )
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "cache", OWNER_TOKEN],
        check=True,
        cwd=ROOT,
        env=hub_environment(server.url, tmp_path / "huggingface"),
    )


@pytest.mark.parametrize("part", ["header", "weights"])
def test_what_is_wrong_with_a_style_of_the_hub_is_not_mended_by_downloading_it_again(
    tmp_path: Path, part: str
) -> None:
    path = tmp_path / "models--owner--wave" / "snapshots" / ("0" * 40) / hub.FILENAME
    path.parent.mkdir(parents=True)
    write_style(path)
    if part == "header":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        tensors = {**load_file(path), "more": torch.zeros(1)}
        save_file(tensors, path, read_info(path).to_metadata())
    message = "^owner/wave .*; use another revision or style"
    with pytest.raises(InvalidStyleError, match=message):
        Stylizer(path, device="cpu")


def test_a_folder_with_a_style_in_it_is_a_pretrained_one(tmp_path: Path) -> None:
    write_style(tmp_path / "model.safetensors")
    assert Stylizer.from_pretrained(str(tmp_path), device="cpu").info.name == "wave"


def test_a_blend_is_not_published(style: Path) -> None:
    blend = Stylizer([(style, 1.0), (style, 2.0)], device="cpu")
    with pytest.raises(ValueError, match="is a blend"):
        blend.push_to_hub("owner/wave")


def test_the_style_of_a_picture_is_published_once_it_is_saved(
    content_image: Image.Image, tmp_path: Path
) -> None:
    path = tmp_path / "painting.png"
    content_image.save(path)
    for picture in (path, content_image):
        stylizer = Stylizer(picture, device="cpu")
        with pytest.raises(ValueError, match=r"is a picture's style .* save it"):
            stylizer.push_to_hub("owner/wave")
    saved = tmp_path / "mine.safetensors"
    stylizer.save(saved, license="CC0-1.0", artwork="My own.")
    shown = hub.publish(saved, "owner/wave", dry_run=True)
    assert "model.safetensors" in shown.files


def test_publishing_again_makes_a_new_commit(
    server: HubServer, client: HubClient, style: Path
) -> None:
    revisions = set()
    for title in ("First", "Second"):
        write_style(style, title=title)
        published = client("hub.publish", str(style), "owner/wave", token=OWNER_TOKEN)
        revisions.add(published["revision"])
    assert len(revisions) == 2
    assert read_info(client("hub.pull", "owner/wave")).title == "Second"


def test_publishing_again_keeps_the_pictures_and_tells_of_an_edited_card(
    server: HubServer,
    style: Path,
    tmp_path: Path,
) -> None:
    sample = tmp_path / "after.png"
    Image.new("RGB", (8, 8)).save(sample)
    code = (
        "import sys; from styleplug import hub; style, *samples = sys.argv[1:]; "
        "hub.publish(style, 'owner/wave', samples=samples)"
    )

    def publish(*samples: Path) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", code, style, *samples],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
            env={
                **hub_environment(server.url, tmp_path / "huggingface"),
                "HF_TOKEN": OWNER_TOKEN,
            },
        )
        repo = server.repos["owner/wave"]
        with repo.commits[repo.refs["main"]]["README.md"].open() as file:
            return file.read().decode(), done.stderr

    first = publish(sample)
    assert "](samples/after.png)" in first[0]
    assert publish() == first == (first[0], "")
    repo = server.repos["owner/wave"]
    edited = Blob(first[0].encode() + b"My notes.", large=False)
    repo.commit({**repo.commits[repo.refs["main"]], "README.md": edited})
    repo.titles.clear()
    card, told = publish()
    assert card == first[0]
    assert "README.md of owner/wave was edited on the Hub" in told


def test_a_dry_run_shows_the_files_and_asks_the_hub_nothing(
    server: HubServer, client: HubClient, style: Path, tmp_path: Path
) -> None:
    sample = tmp_path / "after.jpg"
    Image.new("RGB", (8, 8)).save(sample)
    shown = hub.publish(style, "owner/wave", dry_run=True, samples=[sample])
    assert shown.revision is None
    assert set(shown.files) == {
        "model.safetensors",
        "config.json",
        "README.md",
        "samples/after.jpg",
    }
    client("hub.publish", str(style), "owner/wave", dry_run=True)
    assert not server.requests
    assert not server.repos


def test_the_card_has_what_the_hub_reads(style: Path) -> None:
    from huggingface_hub import ModelCard

    files = hub.publish(style, "owner/wave", dry_run=True).files
    card = ModelCard(files["README.md"].decode())
    data = card.data.to_dict()
    assert data["library_name"] == "styleplug"
    assert data["pipeline_tag"] == "image-to-image"
    assert data["license"] == "cc0-1.0"
    assert data["datasets"] == ["owner/photographs"]
    assert {"style-transfer", "neural-style-transfer"} <= set(data["tags"])
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "style_distance", "value": 0.25}]
    assert "The Wave by Nobody, 1831" in card.text
    assert "--style owner/wave" in card.text
    assert "Public domain" in card.text


def test_the_card_explains_its_figures_and_leaves_out_what_did_not_count() -> None:
    training = {
        "command": "styleplug train artwork.jpg",
        "activations": {"relu1_1": 21.5},
        "any_share": 0.5,
        "identity_weight": 300.0,
        "style_weight": 60.0,
    }
    rights = {"license": "CC0-1.0", "artwork": "Public domain"}
    figures = {"border_energy": 0.9}
    info = StyleInfo("wave", **rights, figures=figures, training=training)
    text = hub.model_card(info, "owner/wave")
    assert "border energy the variance of the outer 8 pixels" in text
    assert "| style weight | 60.0 |" in text
    assert not re.search("activations|any share|identity", text)
    training["command"] += " --any --styles artworks"
    assert "| any share | 0.5 |" in hub.model_card(info, "owner/wave")


@pytest.mark.parametrize("mark", ["```", "~~~ a", "<!--", "  <pre>"])
def test_no_text_of_a_header_breaks_the_card(mark: str) -> None:
    info = StyleInfo(
        "wave",
        title="The\r\n# Wave",
        license="ask\n# me",
        artwork=f"mine\n{mark}",
        description=f"A wave.\r{mark}\nof paper",
        training={"a|b\r_c": "d|e\rf"},
    )
    text = hub.model_card(info, "owner/wave")
    assert re.findall("(?m)^# .*", text) == ["# The # Wave"]
    assert "\n| a\\|b  c | d\\|e f |\n" in text
    assert "The weights: ask # me.\n" in text
    assert text.count(f"\\{mark.strip()}") == 2
    assert not re.search(rf"(?m)^ *{re.escape(mark.strip())}$", text.partition("##")[0])


@pytest.mark.parametrize(
    ("license", "told", "name"),
    [
        ("Apache-2.0", "apache-2.0", None),
        ("GPL-3.0-or-later", "gpl-3.0", None),
        ("LGPL-2.1-only", "lgpl-2.1", None),
        ("ODbL-1.0", "odbl", None),
        ("EUPL-1.2", "other", "EUPL-1.2"),
        ("ask me: first", "other", "ask me: first"),
    ],
)
def test_the_card_has_a_licence_that_the_hub_accepts(
    license: str, told: str, name: str | None
) -> None:
    from huggingface_hub import ModelCard

    info = StyleInfo("wave", license=license, artwork="Public domain")
    data = ModelCard(hub.model_card(info, "owner/wave")).data.to_dict()
    assert (data["license"], data.get("license_name")) == (told, name)


def test_samples_are_pictures_that_the_card_shows(style: Path, tmp_path: Path) -> None:
    sample = tmp_path / "my photo (1).jpg"
    Image.new("RGB", (8, 8)).save(sample)
    files = hub.publish(style, "owner/wave", dry_run=True, samples=[sample]).files
    assert b"](samples/my%20photo%20%281%29.jpg)" in files["README.md"]
    notes = tmp_path / "notes.txt"
    notes.write_text("no picture")
    with pytest.raises(ValueError, match=r"samples must be pictures.*notes\.txt"):
        hub.publish(style, "owner/wave", dry_run=True, samples=[notes])


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_samples_do_not_tell_where_and_when_they_were_taken(
    style: Path, tmp_path: Path, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Camera of Jane"
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitudeRef: "N of Jane"}
    exif.load(exif.tobytes())
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    told: dict[str, Any] = {"exif": exif, "xmp": b"<x:xmpmeta>Jane</x:xmpmeta>"}
    if suffix == ".jpg":
        told["comment"] = "by Jane"
    if suffix == ".png":
        told["pnginfo"] = PngInfo()
        told["pnginfo"].add_text("Author", "Jane")
        told["pnginfo"].add_itxt("XML:com.adobe.xmp", "Jane")
    sample = tmp_path / f"painting{suffix}"
    photo = Image.effect_noise((24, 16), 40).convert("RGB")
    photo.save(sample, icc_profile=profile, dpi=(123, 123), **told)
    if suffix == ".jpg":  # IPTC, which Pillow does not write
        data = b"Photoshop 3.0\x008BIM\x04\x04\0\0\0\0\0\x09\x1c\x02\x50\0\x04Jane"
        segment = b"\xff\xed" + (2 + len(data)).to_bytes(2, "big") + data
        sample.write_bytes(
            sample.read_bytes().replace(b"\xff\xdb", segment + b"\xff\xdb", 1)
        )
    assert b"Jane" in sample.read_bytes()
    files = hub.publish(style, "owner/wave", dry_run=True, samples=[sample]).files
    uploaded = files[f"samples/painting{suffix}"]
    assert b"Jane" not in uploaded
    with Image.open(io.BytesIO(uploaded)) as shown:
        assert ExifTags.IFD.GPSInfo not in shown.getexif()
        assert shown.info["icc_profile"] == profile
        upright = ImageOps.exif_transpose(Image.open(sample)).convert("RGB")
        assert shown.size == upright.size
        if suffix in (".png", ".tif"):
            assert shown.tobytes() == upright.tobytes()


def test_a_sample_that_is_no_image_is_told(style: Path, tmp_path: Path) -> None:
    sample = tmp_path / "sample.png"
    sample.write_text("no picture")
    with pytest.raises(InvalidImageError, match=r"sample\.png is not an image"):
        hub.publish(style, "owner/wave", dry_run=True, samples=[sample])


def test_the_configuration_names_the_file_it_belongs_to(style: Path) -> None:
    files = hub.publish(style, "owner/wave", dry_run=True).files
    config = json.loads(files["config.json"])
    assert config["sha256"] == hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert config["network"]["widths"] == [4, 4, 4]
    assert config["title"] == "The Wave"


def test_a_style_beside_its_trunk_is_published_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = StyleNetwork((4, 4, 4), (1, 1))
    save_trunk(tmp_path / "trunk.safetensors", network, StyleInfo("trunk"))
    monkeypatch.setattr("styleplug.style.STYLES_DIR", tmp_path)
    path = tmp_path / "wave.safetensors"
    style = network.new_style()
    sizes = [shape.numel() for shape in network.changeable.values()]
    style = torch.cat([style, 0.1 * torch.randn(sum(sizes))])
    save_style(path, style, network, INFO, self_contained=False)
    assert not read_info(path).self_contained
    published = tmp_path / "published.safetensors"
    files = hub.publish(path, "owner/wave", dry_run=True).files
    published.write_bytes(files["model.safetensors"])
    assert read_info(published).self_contained
    own, whole = load_file(path), load_file(published)
    assert len(own) > 1
    for name, tensor in own.items():
        assert torch.equal(whole[name], tensor)
    assert torch.equal(load_style(published).vector, load_style(path).vector)


@pytest.mark.parametrize("field", ["license", "artwork"])
def test_a_style_without_rights_is_refused(tmp_path: Path, field: str) -> None:
    path = write_style(tmp_path / "wave.safetensors", **{field: " "})
    with pytest.raises(InvalidStyleError, match=rf"publish it with .*--{field}"):
        hub.publish(path, "owner/wave", dry_run=True)


def test_rights_must_be_texts(style: Path) -> None:
    with pytest.raises(TypeError, match="license is a text, got 5"):
        hub.publish(style, "owner/wave", dry_run=True, license=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rights_that_a_file_does_not_name_can_be_told_when_it_is_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: torch.dtype
) -> None:
    network = StyleNetwork((4, 4, 4), (1, 1))
    path = tmp_path / "mine.safetensors"
    style = network.new_style() + 1 / 3
    save_style(path, style, network, StyleInfo("mine"), dtype=dtype)
    before = path.read_bytes()
    rights = {"license": "CC-BY-4.0", "artwork": "my own"}
    files = hub.publish(path, "owner/mine", dry_run=True, **rights).files
    published = tmp_path / "published.safetensors"
    published.write_bytes(files["model.safetensors"])
    info = read_info(published)
    assert (info.name, info.license, info.artwork) == ("mine", *rights.values())
    assert b"The artwork: my own" in files["README.md"]
    given, uploaded = load_file(path), load_file(published)
    assert given.keys() == uploaded.keys()
    assert all(torch.equal(uploaded[name], given[name]) for name in given)
    assert uploaded["style"].dtype == dtype
    assert path.read_bytes() == before
    options = [f"--{name}={text}" for name, text in rights.items()]
    argv = ["publish", str(path), "--repo-id", "owner/mine", "--dry-run", *options]
    assert main(argv) == 0
    assert "The artwork: my own" in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused(style: Path) -> None:
    tensors = load_file(style)
    tensors["style"][0] = float("nan")
    save_file(tensors, style, read_info(style).to_metadata())
    with pytest.raises(InvalidStyleError, match="not finite"):
        hub.publish(style, "owner/wave", dry_run=True)


def test_a_style_too_large_to_be_pulled_is_not_published(
    style: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "MAX_STYLE_BYTES", style.stat().st_size - 1)
    with pytest.raises(InvalidStyleError, match="smaller network"):
        hub.publish(style, "owner/wave", dry_run=True)


def test_samples_of_the_same_name_are_refused(style: Path, tmp_path: Path) -> None:
    samples = [tmp_path / "a.jpg", tmp_path / "other" / "a.jpg"]
    samples[1].parent.mkdir()
    for sample in samples:
        Image.new("RGB", (8, 8)).save(sample)
    with pytest.raises(ValueError, match="different file names"):
        hub.publish(style, "owner/wave", dry_run=True, samples=samples)


@pytest.mark.parametrize("repo_id", ["owner/wave@main", "owner/wave@v1"])
def test_a_revision_cannot_be_published_to(style: Path, repo_id: str) -> None:
    with pytest.raises(ValueError, match="owner/name"):
        hub.publish(style, repo_id, dry_run=True)


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        pytest.param("owner/wave", "hf_expired", "access token", id="bad-token"),
        pytest.param("other/wave", OWNER_TOKEN, "forbids access", id="foreign"),
    ],
)
def test_a_refusal_of_the_hub_is_explained(
    server: HubServer,
    client: HubClient,
    style: Path,
    repo_id: str,
    token: str,
    message: str,
) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        client("hub.publish", str(style), repo_id, token=token)
    assert caught.value.kind == "DownloadError"
    assert not server.repos


def test_a_private_style_is_never_put_into_a_public_repository(
    server: HubServer, client: HubClient, style: Path
) -> None:
    arguments = ("hub.publish", str(style), "owner/wave")
    client(*arguments, private=True, token=OWNER_TOKEN)
    assert server.repos["owner/wave"].private
    client(*arguments, private=True, token=OWNER_TOKEN)
    server.repos["owner/wave"].private = False
    before = dict(server.repos["owner/wave"].commits)
    with pytest.raises(RemoteError, match="exists and is public"):
        client(*arguments, private=True, token=OWNER_TOKEN)
    assert server.repos["owner/wave"].commits == before
