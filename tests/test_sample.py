"""The scene that is drawn by code."""

from __future__ import annotations

import numpy as np

from styleplug.sample import draw_scene


def test_the_scene_is_the_same_every_time_and_full_of_contrast() -> None:
    scene = draw_scene()
    assert (scene.mode, scene.size) == ("RGB", (960, 640))
    assert scene.tobytes() == draw_scene().tobytes()
    levels = np.asarray(scene.convert("L"))
    assert levels.min() < 40
    assert levels.max() > 240
    assert len(np.unique(np.asarray(scene).reshape(-1, 3), axis=0)) > 50_000
