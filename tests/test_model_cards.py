"""model_cards/ holds what is published with the bundled styles, byte for byte."""

from pathlib import Path

import pytest

from styleplug import hub
from styleplug.style import bundled_styles

CARDS = Path(__file__).parents[1] / "model_cards"


def test_there_is_a_card_for_each_bundled_style_and_no_other():
    assert {card.parent.name for card in CARDS.glob("*/README.md")} == set(
        bundled_styles()
    )


@pytest.mark.parametrize("name", bundled_styles())
def test_a_card_is_what_publishing_uploads(name):
    folder = CARDS / name
    samples = sorted((folder / "samples").iterdir())
    published = hub.publish(
        bundled_styles()[name], f"styleplug/{name}", samples=samples, dry_run=True
    )
    for file in ("README.md", "config.json"):
        written = (folder / file).read_text("utf-8")
        assert written == published.files[file].decode()
    assert max(sample.stat().st_size for sample in samples) <= 150_000
