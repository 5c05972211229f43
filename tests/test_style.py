import json
import pickle
import struct
from pathlib import Path

import pytest

from styleplug import style
from styleplug.errors import InvalidStyleError
from styleplug.style import StyleInfo, read_info


def write(path: Path, header: dict, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(count: int, dtype: str = "F16") -> dict:
    return {"dtype": dtype, "shape": [count], "data_offsets": [0, 2 * count]}


def test_a_header_reads_back_as_it_was_written(tmp_path):
    info = StyleInfo(
        name="dusk",
        title="Dusk",
        artist="Somebody",
        year="1900",
        license="Apache-2.0",
        network={"name": "conditional"},
        training={"seed": 3},
        figures={"style": 0.1},
        base_size=640,
    )
    header = {"__metadata__": info.to_metadata(), "style": tensor(4)}
    path = write(tmp_path / "dusk.safetensors", header, bytes(8))
    read = read_info(path)
    assert read.path == path
    assert not read.self_contained
    assert read.to_metadata() == info.to_metadata()


def test_a_file_with_its_trunk_is_self_contained(tmp_path):
    header = {
        "__metadata__": StyleInfo(name="dusk").to_metadata(),
        "style": tensor(4),
        "photo": tensor(4),
    }
    assert read_info(write(tmp_path / "s", header, bytes(8))).self_contained


def test_changes_to_kernels_are_no_trunk(tmp_path):
    header = {
        "__metadata__": StyleInfo(name="dusk").to_metadata(),
        "style": tensor(4),
        "up2.lora_A": tensor(4),
        "up2.lora_B": tensor(4),
    }
    assert not read_info(write(tmp_path / "s", header, bytes(8))).self_contained


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"short", id="five-bytes"),
        pytest.param(struct.pack("<Q", 1 << 60) + b"{}", id="huge-header"),
        pytest.param(struct.pack("<Q", 4) + b"nope", id="no-json"),
        pytest.param(struct.pack("<Q", 2) + b"[]", id="json-list"),
        pytest.param(pickle.dumps({"weights": [1.0] * 100}), id="pickle"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path, data):
    path = tmp_path / "style.safetensors"
    path.write_bytes(data)
    with pytest.raises(InvalidStyleError, match=str(path)):
        read_info(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"shape": [5]}, id="shape-beyond-data"),
        pytest.param({"data_offsets": [0, 800]}, id="offsets-beyond-file"),
        pytest.param({"data_offsets": [6, 2]}, id="offsets-reversed"),
        pytest.param({"dtype": "I64"}, id="integers"),
        pytest.param({"shape": [0, 2**63], "data_offsets": [0, 0]}, id="no-size"),
        pytest.param({"shape": [4] + [1] * 8}, id="nine-sides"),
    ],
)
def test_tensors_that_do_not_fit_the_file_are_refused(tmp_path, change):
    header = {
        "__metadata__": StyleInfo(name="dusk").to_metadata(),
        "style": {**tensor(4), **change},
    }
    with pytest.raises(InvalidStyleError, match="style"):
        read_info(write(tmp_path / "s.safetensors", header, bytes(8)))


def test_a_shape_is_looked_at_before_its_sides_are_multiplied(tmp_path, monkeypatch):
    header = {"style": {**tensor(4), "shape": [9] * 100_000}}
    path = write(tmp_path / "s.safetensors", header, bytes(8))
    monkeypatch.setattr(style.math, "prod", None)
    with pytest.raises(InvalidStyleError, match="cut short or damaged"):
        read_info(path)


def test_a_foreign_network_is_pointed_to_convert(tmp_path):
    path = write(tmp_path / "s.safetensors", {"style": tensor(4)}, bytes(8))
    with pytest.raises(InvalidStyleError, match="styleplug convert"):
        read_info(path)


@pytest.mark.parametrize(
    "name",
    [
        *("../../evil", "a/b", "a\\b", ".hidden", "..", "x" * 101),
        *("a\nb", "a\0b", "\u202efdp.exe", "\ud800"),
    ],
)
def test_a_name_that_leads_elsewhere_or_cannot_be_shown_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="style's name"):
        StyleInfo(name).to_metadata()
    fields = {"format": 1, "name": name}
    header = {"__metadata__": {"styleplug": json.dumps(fields)}, "style": tensor(4)}
    with pytest.raises(InvalidStyleError, match="name"):
        read_info(write(tmp_path / "s.safetensors", header, bytes(8)))


@pytest.mark.parametrize(
    "name", ["x" * 100, "Öl auf Leinwand", "no. 5, 1948", "星月夜"]
)
def test_names_of_any_language_are_names(tmp_path, name):
    header = {"__metadata__": StyleInfo(name).to_metadata(), "style": tensor(4)}
    assert read_info(write(tmp_path / "s", header, bytes(8))).name == name


def test_text_that_is_no_unicode_is_written_so_that_it_can_be_read(tmp_path):
    info = StyleInfo(
        "x", title="caf\udce9", training={"command": "train caf\udce9.jpg"}
    )
    header = {"__metadata__": info.to_metadata(), "style": tensor(4)}
    read = read_info(write(tmp_path / "s.safetensors", header, bytes(8)))
    assert read.title == "caf?"
    assert read.training["command"] == "train caf?.jpg"


def test_numbers_that_are_not_read_are_not_written():
    with pytest.raises(ValueError, match="JSON"):
        StyleInfo("x", figures={"distance": float("nan")}).to_metadata()


def test_a_header_of_many_levels_is_refused_as_any_other_invalid_one(tmp_path):
    """The levels are fewer than Python can read, and more than it can print."""
    nested = '{"a":' * 700 + "0" + "}" * 700
    told = f'{{"format": 1, "name": "x", "training": {nested}}}'
    header = {"__metadata__": {"styleplug": told}, "style": tensor(4)}
    with pytest.raises(InvalidStyleError, match="in its header"):
        read_info(write(tmp_path / "s.safetensors", header, bytes(8)))


def test_texts_that_are_not_read_are_not_written(tmp_path):
    with pytest.raises(TypeError, match="A style's artist is a text, got 5"):
        StyleInfo("x", artist=5).to_metadata()
    with pytest.raises(ValueError, match="year has at most 300 characters, got 301"):
        StyleInfo("x", year="y" * 301).to_metadata()
    long = StyleInfo("x", title="y" * 300, artwork="y" * 2000)
    header = {"__metadata__": long.to_metadata(), "style": tensor(4)}
    read = read_info(write(tmp_path / "s.safetensors", header, bytes(8)))
    assert read.header_fields() == long.header_fields()


@pytest.mark.parametrize("size", [32, 5000, 512.0])
def test_a_base_size_that_is_not_read_is_not_written(size):
    with pytest.raises(ValueError, match="base size"):
        StyleInfo("x", base_size=size).to_metadata()


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"format": 99, "name": "x"}, id="format"),
        pytest.param({"format": 1}, id="name-missing"),
        pytest.param({"format": 1, "name": "x", "title": "\udfff"}, id="surrogate"),
        pytest.param({"format": 1, "name": ""}, id="no-name"),
        pytest.param({"format": 1, "name": "x", "base_size": 10**9}, id="base-size"),
        pytest.param({"format": 1, "name": "x", "network": "y"}, id="type"),
        pytest.param({"format": 1, "name": "x", "title": "y" * 301}, id="long-title"),
        pytest.param({"format": 1, "name": "x", "artwork": "y" * 2001}, id="long"),
        pytest.param({"format": 1, "name": "x", "novel": 1}, id="unknown"),
        pytest.param({"format": 1, "name": "x", "path": "/etc"}, id="derived"),
        pytest.param({"format": 1, "name": "x", "figures": {"a": "b"}}, id="figure"),
        pytest.param(
            {"format": 1, "name": "x", "figures": {"a": float("nan")}}, id="nan"
        ),
        pytest.param(
            {"format": 1, "name": "x", "training": {"a": [-float("inf")]}}, id="inf"
        ),
        pytest.param(
            {"format": 1, "name": "x", "training": {"a": [[[[0]]]]}}, id="nested"
        ),
    ],
)
def test_header_fields_are_checked(tmp_path, fields):
    header = {"__metadata__": {"styleplug": json.dumps(fields)}, "style": tensor(4)}
    with pytest.raises(InvalidStyleError):
        read_info(write(tmp_path / "s.safetensors", header, bytes(8)))


def test_bundled_styles_are_named_by_their_headers():
    styles = style.bundled_styles()
    assert len(styles) >= 3
    for name, path in styles.items():
        info = read_info(path)
        assert info.name == name
        assert info.license
        assert info.artwork
        assert info.training["command"]
        assert info.trunk == read_info(style.bundled_trunk()).trunk
