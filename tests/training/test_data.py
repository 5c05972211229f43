import logging
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleplug.errors import TrainingError
from styleplug.images import Picture, write_picture
from styleplug.training.data import (
    Archive,
    Photographs,
    folder_images,
    load_artwork,
    random_part,
)


def test_crops_are_repeated_by_the_same_generator(photographs):
    data = Photographs(photographs)
    one, two = (
        data.crops(3, 48, (1, 2), torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert one.shape == (3, 3, 48, 48)
    assert 0 <= one.min() <= one.max() <= 1
    assert torch.equal(one, two)
    other = data.crops(3, 48, (1, 2), torch.Generator().manual_seed(6))
    assert not torch.equal(one, other)


def test_collages_hold_two_crops_that_meet_at_a_line(tmp_path):
    for color in ("red", "black"):
        Image.new("RGB", (64, 48), color).save(tmp_path / f"{color}.png")
    data = Photographs(tmp_path)
    made = data.collages(64, 48, (1, 1), torch.Generator().manual_seed(0))
    assert made.shape == (64, 3, 48, 48)
    assert 0 <= made.min() <= made.max() <= 1
    for along in (2, 3):
        changes = made.diff(dim=along).abs().amax(dim=1) > 0
        assert changes.sum(dim=along - 1).max() == 1
    whole = (made == made[..., :1, :1]).all(dim=3).all(dim=2).all(dim=1)
    assert 0 < whole.sum() < 40
    recoloured = (made != made.round()).flatten(1).any(dim=1)
    assert 0 < recoloured.sum() < 64


def test_crops_and_glimpses_are_mirrored_at_random(tmp_path):
    Image.linear_gradient("L").rotate(90).save(tmp_path / "ramp.png")
    data = Photographs(tmp_path)
    rng = torch.Generator().manual_seed(0)
    crops = data.crops(16, 48, (1, 1), rng)
    glimpses = [random_part(data.images[0], 1, rng) for _ in range(16)]
    for pictures in (crops, glimpses):
        mirrored = {bool(x[..., 0].mean() > x[..., -1].mean()) for x in pictures}
        assert mirrored == {False, True}


def test_photographs_smaller_than_a_crop_are_magnified(photographs):
    data = Photographs(photographs, size=32)
    assert data.images[0].shape == (3, 32, 43)
    assert data.crops(1, 128, (1, 1), torch.Generator()).shape == (1, 3, 128, 128)


def test_a_crop_shows_a_pixel_at_least(photographs):
    data = Photographs(photographs)
    assert data.crops(1, 48, (200, 200), torch.Generator()).shape == (1, 3, 48, 48)


def test_broken_photographs_are_skipped_and_counted(tmp_path, caplog):
    Image.new("RGB", (20, 30), "red").save(tmp_path / "good.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        data = Photographs(tmp_path)
    assert len(data.images) == 1
    assert "2 of 3 pictures" in caplog.text
    assert "cut.jpg" in caplog.text


def test_a_photograph_with_a_broken_chunk_is_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "good.png")
    chunks = (tmp_path / "good.png").read_bytes().rpartition(b"IDAT")
    (tmp_path / "broken.png").write_bytes(b"\0\0\0\0".join(chunks[::2]))
    assert len(Photographs(tmp_path).images) == 1


def test_photographs_too_small_to_be_painted_are_skipped(tmp_path):
    Image.new("RGB", (60, 16), "red").save(tmp_path / "good.png")
    Image.new("RGB", (60, 15), "red").save(tmp_path / "narrow.png")
    data = Photographs(tmp_path)
    assert len(data.images) == 1


def test_photographs_are_as_pillow_reads_and_resizes_them(photographs):
    with Image.open(photographs / "0.jpg") as image:
        expected = np.array(image.resize((64, 48), Image.Resampling.LANCZOS))
    found = Photographs(photographs, size=48).images[0]
    assert np.array_equal(found.permute(1, 2, 0), expected)


def test_photographs_are_told_apart_by_names_and_sizes(photographs, tmp_path):
    folder = Path(shutil.copytree(photographs, tmp_path / "copies"))
    (folder / "broken.jpg").touch()
    known = Photographs(photographs).files
    assert Photographs(folder).files == known
    assert Photographs(folder, held_out=["0.jpg"]).files != known
    held_out = Photographs(folder, held_out=["1.jpg"])
    assert Photographs(folder, held_out=["0.jpg"]).files != held_out.files
    with (folder / "0.jpg").open("ab") as file:
        file.write(b"more")
    assert Photographs(folder).files != known
    shutil.copy(photographs / "0.jpg", folder)
    assert Photographs(folder).files == known
    (folder / "0.jpg").rename(folder / "6.jpg")
    assert Photographs(folder).files != known


def test_photographs_that_lie_in_another_folder_are_left_out(photographs, tmp_path):
    (tmp_path / "link.jpg").symlink_to(photographs / "2.jpg")
    assert len(Photographs(photographs, but=tmp_path).images) == 5
    with pytest.raises(TrainingError, match=r"All pictures of .* too; name others"):
        Photographs(photographs, but=photographs)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_pictures_keep_their_tones(tmp_path, channels):
    path = tmp_path / "deep.png"
    if channels == 1:
        Image.fromarray(np.full((32, 32), 0x4000, np.uint16)).save(path)
    else:
        picture = Picture.from_image(np.full((32, 32, 3), 0x4000, np.uint16))
        write_picture(picture, picture.pixels, path, provenance={})
    assert load_artwork(path, 32).mul(255).round().unique().tolist() == [64]


def test_names_to_hold_out_that_match_no_file_are_told(photographs, caplog):
    data = Archive(photographs, 64, held_out=["0.jpg", "my photo.jpg"])
    assert len(data.images) == 5
    assert "my photo.jpg" in caplog.text
    assert "0.jpg" not in caplog.text


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_to_hold_out_match_however_accents_are_written(
    photographs, tmp_path, caplog, form
):
    for other in {"NFC", "NFD"} - {form}:
        name = unicodedata.normalize(other, "\u00e9t\u00e9.jpg")
        shutil.copy(photographs / "0.jpg", tmp_path / name)
    shutil.copy(photographs / "1.jpg", tmp_path)
    held_out = [unicodedata.normalize(form, "\u00e9t\u00e9.jpg")]
    assert len(Photographs(tmp_path, held_out=held_out).images) == 1
    assert not caplog.messages


def test_an_archive_reduces_large_artworks_and_leaves_small_ones_as_they_are(tmp_path):
    for name, size in ("large.png", (256, 144)), ("small.png", (40, 30)):
        Image.new("RGB", size, "teal").save(tmp_path / name)
    large, small = Archive(tmp_path, 96).images
    assert large.shape == (3, 72, 128)
    assert small.shape == (3, 30, 40)


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no readable pictures"):
        Photographs(tmp_path)
    with pytest.raises(TrainingError, match="not a folder"):
        Photographs(tmp_path / "missing")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_an_artwork_of_any_mode_becomes_rgb_of_the_size(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (200, 50), "teal").convert(mode).save(path)
    artwork = load_artwork(path, 64)
    assert artwork.shape == (1, 3, 32, 128)


def test_transparent_margins_are_no_part_of_an_artwork(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    painting = Image.fromarray(noise)
    painting.save(tmp_path / "painting.png")
    canvas = Image.new("RGBA", (90, 80))
    canvas.paste(painting, (20, 30))
    canvas.save(tmp_path / "cut-out.png")
    painting, cut_out = (
        load_artwork(tmp_path / f"{name}.png", 64) for name in ("painting", "cut-out")
    )
    assert torch.equal(painting, cut_out)


def test_a_wholly_transparent_artwork_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    with pytest.raises(TrainingError, match=r"a\.png is wholly transparent"):
        load_artwork(path, 32)


def test_transparent_paper_of_a_photograph_is_white(tmp_path):
    photograph = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    photograph.paste((255, 0, 0, 255), (10, 10, 30, 30))
    photograph.save(tmp_path / "a.png")
    (image,) = Photographs(tmp_path).images
    assert image.shape == (3, 40, 40)
    assert image[:, 0, 0].tolist() == [255, 255, 255]


def test_half_transparent_paint_is_laid_over_white_paper(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 40), (255, 0, 0, 51)).save(path)
    red, green, blue = load_artwork(path, 32).mul(255).round()[0, :, 0, 0].tolist()
    assert (red, green, blue) == (255, 204, 204)


@pytest.mark.parametrize("content", [b"no image", None])
def test_an_artwork_that_cannot_be_read_is_an_error(tmp_path, content):
    if content is not None:
        (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(TrainingError, match=r"a\.png"):
        load_artwork(tmp_path / "a.png", 64)


def test_an_artwork_of_too_many_pixels_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(TrainingError, match="make it smaller"):
        load_artwork(path, 64)


def test_folders_stand_for_the_images_in_them(photographs, artwork):
    found = folder_images([artwork, photographs])
    assert found[0] == artwork
    assert [path.name for path in found[1:]] == [f"{i}.jpg" for i in range(6)]


@pytest.mark.parametrize("below", [False, True])
def test_what_is_hidden_or_to_be_exported_first_is_not_trained_on(
    tmp_path, caplog, below
):
    folder = tmp_path / "art"
    (folder / ".thumbnails").mkdir(parents=True)
    picture = folder / "sea.png"
    for path in (picture, folder / ".thumbnails" / "sea.png"):
        Image.new("RGB", (40, 30), "teal").save(path)
    for name in ("._sea.png", "boat.heic", "sea.psd"):
        (folder / name).touch()
    (folder / "folder.png").mkdir()
    if below:
        data = Photographs(tmp_path)
        assert len(data.images) == 1
        assert "skipped" not in caplog.text
    else:
        assert folder_images([folder]) == [picture]
    assert "HEIC and camera raw files are left out (1); export" in caplog.text


def test_a_folder_of_artworks_without_pictures_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="holds no pictures; name"):
        folder_images([tmp_path])
