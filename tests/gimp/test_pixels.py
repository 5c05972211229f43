"""Pixel truth in a real GIMP: the plug-in is as exact as GIMP's own filters."""

import shutil

import numpy as np
import pytest
import torch
from harness import REAL, require_gimp, run_gimp
from PIL import Image

from styleplug import Stylizer
from styleplug.networks import computes_bfloat16

pytestmark = pytest.mark.gimp

DEPTHS = ("U8", "U16", "U32", "HALF", "FLOAT", "DOUBLE")
CURVES = ("LINEAR", "NON_LINEAR", "PERCEPTUAL")
PRECISIONS = [
    f"{base}-{depth}-{curve}"
    for base in ("RGB", "GRAY")
    for depth in DEPTHS
    for curve in CURVES
]
NATIVE = dict(zip(DEPTHS, ("u1", "<u2", "<u4", "<f2", "<f4", "<f8"), strict=True))
SHAPES = [
    *("no-alpha-whole", "no-alpha-selected", "small-layer-whole"),
    *("small-layer-selected", "partly-outside-whole", "one-pixel-whole"),
    *("one-pixel-selected", "thin-whole", "thin-selected", "adobe-rgb"),
    *("srgb-profile", "bands", "parts-U32", "parts-DOUBLE"),
]
# GIMP inverts in the primaries of the image, the stand-in in sRGB.
COMPARABLE = [name for name in PRECISIONS + SHAPES if name != "adobe-rgb"]


class Case:
    def __init__(self, folder, entry):
        self.status = entry["status"]
        width, height = entry["size"]
        self.selection = self._read(folder / entry["selection"], "<f4")
        self.selection = self.selection.reshape(height, width)
        if not entry["selected"]:
            self.selection[:] = 1
        for name in ("before", "after", "own"):
            raw = self._read(folder / entry[name], NATIVE[entry["precision"]])
            setattr(self, name, raw.reshape(height, width, -1))
            floats = self._read(folder / entry[f"{name}_float"], "<f4")
            setattr(self, f"{name}_float", floats.reshape(height, width, 4))

    @staticmethod
    def _read(path, dtype):
        return np.fromfile(path, dtype)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    require_gimp()
    folder = tmp_path_factory.mktemp("pixels")
    notes = run_gimp(folder, "batch_pixels.py", folder)
    return {name: Case(folder, entry) for name, entry in notes.items()}


@pytest.mark.parametrize("name", PRECISIONS + SHAPES)
def test_nothing_changes_outside_of_the_selection(cases, name):
    case = cases[name]
    assert case.status == [3, ""]
    outside = case.selection == 0
    assert np.array_equal(case.after[outside], case.before[outside])


@pytest.mark.parametrize("name", COMPARABLE)
def test_selected_and_half_selected_pixels_are_those_of_gimps_own_filter(cases, name):
    case = cases[name]
    assert not np.array_equal(case.after, case.before)
    difference = np.abs(case.after.astype(float) - case.own)
    if case.after.dtype == np.uint8:
        assert difference.max() <= 1
    else:
        difference = np.abs(case.after_float - case.own_float)
        tolerance = 3e-3 if case.after.dtype == np.float16 else 1e-3
        assert (difference / np.maximum(1, np.abs(case.own_float))).max() <= tolerance


@pytest.mark.parametrize("name", ["RGB-U8-NON_LINEAR", "no-alpha-selected", "bands"])
def test_eight_bits_are_bit_for_bit_those_of_gimps_own_filter(cases, name):
    assert np.array_equal(cases[name].after, cases[name].own)


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_cases_have_soft_edges(cases, name):
    soft = (cases[name].selection > 0) & (cases[name].selection < 1)
    assert soft.sum() > 100


@pytest.mark.parametrize("name", PRECISIONS + SHAPES)
def test_alpha_is_kept(cases, name):
    case = cases[name]
    if case.after.shape[2] in (2, 4):
        before, after = case.before[..., -1], case.after[..., -1]
        # GIMP's merge computes in float32, which has no room for 32-bit integers.
        tolerance = 1e-6 if before.dtype.itemsize > 2 else 0
        scale = max(1, before.max())
        assert (np.abs(after / scale - before / scale)).max() <= tolerance


def test_colours_beyond_srgb_are_there_and_survive(cases):
    case = cases["adobe-rgb"]
    inside = case.selection == 1
    assert case.before_float[..., 0].min() < -0.05
    assert case.after_float[inside][:, 0].min() > 1.1


def test_real_results_are_those_of_the_python_api(tmp_path, tiny_style):
    require_gimp()
    options = {"strength": 0.8, "style_scale": 1.5}
    # Of colours that differ in their last bits, bfloat16 may round one up, one down.
    rounding = 2**-7 if computes_bfloat16(torch.device("cpu")) else 1e-3
    painting = tmp_path / "My painting.JPG"
    Image.effect_mandelbrot((90, 60), (-2, -1.5, 1, 1.5), 80).save(painting, "JPEG")
    styles = shutil.copy(tiny_style, tmp_path), painting
    notes = run_gimp(tmp_path, "batch_real.py", tmp_path, *styles, command=REAL)
    assert {entry["style"] for entry in notes.values()} == set(map(str, styles))
    for name, entry in notes.items():
        dtype, tolerance = ("u1", 0) if entry["u8"] else ("<f4", rounding)
        shape = (*entry["size"][::-1], 4)
        before = np.fromfile(tmp_path / entry["before"], dtype).reshape(shape)
        after = np.fromfile(tmp_path / entry["after"], dtype).reshape(shape)
        selection = np.fromfile(tmp_path / entry["selection"], "<f4")
        inside = selection.reshape(shape[:2]) == 1
        assert inside.sum() > 500
        expected = Stylizer(entry["style"])(before, **options)
        assert entry["status"] == [3, ""], name
        difference = np.abs(after[inside].astype(float) - expected[inside])
        assert difference.max() <= tolerance, name
        outside = selection.reshape(shape[:2]) == 0
        assert np.array_equal(after[outside], before[outside])
