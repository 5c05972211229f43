import numpy as np
import pytest

from styleplug.engine import Stylizer
from styleplug.training import controls
from styleplug.training.controls import (
    Controls,
    _border_energy,
    _stroke_length,
    measure_controls,
    ssim,
)

GOOD = Controls([1 - i / 20 for i in range(11)], [2.0, 3.0, 4.0, 5.0, 6.0], 1.1)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_picture_is_wholly_similar_to_itself_alone():
    picture = noise(60, 80, 3)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, picture // 2 + 64) < 0.9
    assert ssim(picture, noise(60, 80, 3)[::-1]) < 0.1


def test_strokes_twice_as_wide_are_twice_as_long():
    fine = noise(64, 64, 1).repeat(2, 0).repeat(2, 1).repeat(3, 2)
    coarse = noise(32, 32, 1).repeat(4, 0).repeat(4, 1).repeat(3, 2)
    assert _stroke_length(coarse) == pytest.approx(2 * _stroke_length(fine), rel=0.15)


def test_one_color_has_no_strokes():
    card = np.full((64, 64, 3), 90, np.uint8)
    assert _stroke_length(card) == 0
    flat = GOOD._replace(strokes=[0.0] * 5)
    assert flat.growth == 0
    assert flat.faults() == ["has strokes that hardly grow with the stroke size"]


def test_a_border_like_the_inside_has_its_energy():
    card = noise(200, 200, 3)
    assert _border_energy(card) == pytest.approx(1, abs=0.05)
    card[:8] = 255
    assert _border_energy(card) > 1.3


def test_what_is_good_has_no_faults():
    assert GOOD.growth == 3
    assert GOOD.faults() == []
    assert GOOD.figures() == {
        "similarity_at_strength_1": 0.5,
        "stroke_growth": 3.0,
        "border_energy": 1.1,
    }


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"similarity": [1.0, *[0.7] * 10]}, "ever stronger"),
        ({"strokes": [2.0, 2.5, 3.0, 3.5, 3.9]}, "hardly grow"),
        ({"strokes": [2.0, 2.5, 2.4, 3.5, 6.0]}, "hardly grow"),
        ({"border": 1.31}, "border"),
    ],
)
def test_faults_are_told(changed, fault):
    (told,) = GOOD._replace(**changed).faults()
    assert fault in told


def test_a_style_is_measured_at_all_its_settings(tiny_style, monkeypatch):
    monkeypatch.setattr(controls, "_CARD", 64)
    found = measure_controls(Stylizer(tiny_style, device="cpu"), noise(64, 72, 3))
    assert found.similarity[0] == pytest.approx(1)
    assert len(found.similarity) == 11
    assert found.similarity[-1] < found.similarity[0]
    assert len(found.strokes) == len(controls.STROKE_SIZES)
    assert min(found.strokes) > 0
    assert found.border > 0


def test_each_card_is_painted_once_at_each_size(tiny_style, monkeypatch):
    monkeypatch.setattr(controls, "_CARD", 64)
    stylizer, painted = Stylizer(tiny_style, device="cpu"), []

    def paint(picture, **options):
        painted.append((picture.tobytes(), options.get("style_scale", 1.0)))
        return stylizer(picture, **options)

    photograph = noise(64, 72, 3)
    measure_controls(paint, photograph)
    cards = [each for each in painted if each[0] != photograph.tobytes()]
    assert len(cards) == len(set(cards)) == controls._CARDS + 4
