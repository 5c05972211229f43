import logging

import pytest
import torch
from PIL import Image

from styleplug.errors import TrainingError
from styleplug.training.data import Photographs, folder_images, load_artwork


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


def test_photographs_smaller_than_a_crop_are_magnified(photographs):
    data = Photographs(photographs, size=32)
    assert data.images[0].shape == (3, 32, 43)
    assert data.crops(1, 128, (1, 1), torch.Generator()).shape == (1, 3, 128, 128)


def test_broken_photographs_are_skipped_and_counted(tmp_path, caplog):
    Image.new("RGB", (20, 30), "red").save(tmp_path / "good.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a photograph")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("no image")
    with caplog.at_level(logging.WARNING):
        data = Photographs(tmp_path)
    assert len(data.images) == 1
    assert data.skipped == 2
    assert "cut.jpg" in caplog.text


def test_a_folder_without_photographs_is_an_error(tmp_path):
    with pytest.raises(TrainingError, match="no readable photographs"):
        Photographs(tmp_path)
    with pytest.raises(TrainingError, match="not a folder"):
        Photographs(tmp_path / "missing")


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_an_artwork_of_any_mode_becomes_rgb_of_the_size(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (200, 50), "teal").convert(mode).save(path)
    artwork = load_artwork(path, 64)
    assert artwork.shape == (1, 3, 32, 128)


def test_transparent_paper_is_white(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    assert load_artwork(path, 32).min() == 1


def test_an_artwork_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(TrainingError, match=r"a\.png"):
        load_artwork(tmp_path / "a.png", 64)


def test_folders_stand_for_the_images_in_them(photographs, artwork):
    found = folder_images([artwork, photographs])
    assert found[0] == artwork
    assert [path.name for path in found[1:]] == [f"{i}.jpg" for i in range(6)]
