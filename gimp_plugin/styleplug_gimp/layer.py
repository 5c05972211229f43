"""Exchange pixels between a GIMP layer and the worker.

The whole layer is the content image, whatever is selected, so that strokes do not
change with the selection. GIMP itself merges the result through the selection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from zlib import crc32

import gi

gi.require_version("Gegl", "0.4")
gi.require_version("Gimp", "3.0")
from gi.repository import Gegl, Gimp
from worker_client import PIXEL_BYTES, CancelledError, Worker

REPLACE = "replace"
NEW_LAYER = "new-layer"

_BABL = {"u8": "R'G'B'A u8", "f32": "R'G'B'A float"}
_WIDER_THAN_FLOAT = [
    getattr(Gimp.Precision, f"{depth}_{curve}")
    for depth in ("U32", "DOUBLE")
    for curve in ("LINEAR", "NON_LINEAR", "PERCEPTUAL")
]
_BAND_BYTES = 1 << 22
_TILE = 64
_CHANGED = "The layer was changed while it was painted: paint it again."
# Progress after sending, painting and fetching the pixels; the rest is for comparing
# those that they replace.
_SENT, _PAINTED, _FETCHED = 0.04, 0.95, 0.99


class LayerError(Exception):
    """The layer cannot be stylized; the message is for the user."""


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    style: str
    strength: float
    style_scale: float
    preserve_color: bool
    output: str
    second_style: str = ""
    mix: float = 0.0
    """Share of the second style."""

    @classmethod
    def of(cls, config: Any) -> Settings:
        """Read the arguments of the procedure."""
        return cls(
            style=config.get_property("style") or "",
            strength=config.get_property("strength"),
            style_scale=config.get_property("style-scale"),
            preserve_color=config.get_property("preserve-color"),
            output=config.get_property("output"),
            second_style=config.get_property("second-style") or "",
            mix=config.get_property("mix"),
        )

    def request(self) -> dict[str, Any]:
        """Return the part of a request that holds these settings."""
        mix = self.mix if self.second_style else 0.0
        parts = [(self.style, 1 - mix), (self.second_style, mix)]
        visible = [(style, share) for style, share in parts if share > 0]
        return {
            "style": visible if len(visible) > 1 else visible[0][0],
            "parameters": {
                "strength": self.strength,
                "style_scale": self.style_scale,
                "preserve_color": self.preserve_color,
            },
        }


def check(image: Any, drawables: list[Any]) -> Any:
    """Return the one layer to stylize, or raise :class:`LayerError`."""
    if len(drawables) != 1:
        raise LayerError("Neural Style works on one layer: select exactly one.")
    layer = drawables[0]
    if not layer.is_valid():
        raise LayerError(
            "The layer is no longer there: select another one and start again."
        )
    if layer.get_image().get_id() != image.get_id():
        raise LayerError(
            "The layer belongs to another image: select one of this image."
        )
    if isinstance(layer, Gimp.LayerMask):
        raise LayerError(
            "The layer mask is selected, not the layer: click on the picture of "
            "the layer in the Layers dialog first."
        )
    if not isinstance(layer, Gimp.Layer):
        raise LayerError("A channel has no colours: select a layer.")
    if image.get_base_type() == Gimp.ImageBaseType.INDEXED:
        raise LayerError(
            "An indexed image has too few colours: convert it first with "
            "Image > Mode > RGB."
        )
    if layer.is_group() and _filters(layer):
        raise LayerError(
            "A layer group with filters cannot be painted: merge it first with "
            "Layer > Merge Layer Groups."
        )
    if not layer.mask_intersect()[0]:
        raise LayerError("The selection and the layer do not overlap.")
    return layer


def check_output(layer: Any, output: str) -> None:
    """Raise :class:`LayerError` when the result cannot go where ``output`` says."""
    # A filled layer can be added to a locked group, but not then cut to a selection.
    whole = output == NEW_LAYER and Gimp.Selection.is_empty(layer.get_image())
    if not whole and _is_locked(layer.get_parent()):
        raise LayerError("The group of the layer is locked: unlock its pixels first.")
    if output == NEW_LAYER:
        if layer.is_floating_sel():
            raise LayerError(
                "Nothing can be put above a floating selection: make it a layer with "
                "Layer > To New Layer, or anchor it, first."
            )
        return
    advice = "Choose “New layer above” as the output."
    if layer.is_group():
        message = "A layer group has no pixels of its own to replace."
    elif _is_generated(layer):
        message = "The pixels of a link or vector layer cannot be replaced."
    elif layer.get_lock_content():
        message = "The pixels of the layer are locked."
        advice = "Unlock them, or choose “New layer above” as the output."
    else:
        return
    raise LayerError(f"{message} {advice}")


def _is_generated(layer: Any) -> bool:
    # Exist since GIMP 3.2; once rasterized, such a layer is like any other.
    kinds = [getattr(Gimp, name, ()) for name in ("LinkLayer", "VectorLayer")]
    return any(kind and isinstance(layer, kind) for kind in kinds) and not (
        hasattr(layer, "is_rasterized") and layer.is_rasterized()
    )


def _filters(layer: Any) -> list[Any]:
    return [each for each in layer.get_filters() if each.get_visible()]


@contextmanager
def _with_filters_merged(layer: Any) -> Iterator[tuple[Any, Any]]:
    """Yield ``layer`` twice, or, if it has filters, temporary copies.

    The filters of the first one are merged: some are random, so that merging them again
    would give other pixels. The second one has the pixels that they were applied to.

    The copies are in an image of their own: merging filters adds a step to the undo
    history even for a layer that the image does not show.
    """
    if not _filters(layer):
        yield layer, layer
        return
    image = layer.get_image()
    apart = Gimp.Image.new_with_precision(
        1, 1, image.get_base_type(), image.get_precision()
    )
    try:
        apart.undo_disable()
        apart.set_color_profile(image.get_effective_color_profile())
        original, copy = (Gimp.Layer.new_from_drawable(layer, apart) for _ in range(2))
        for each in original, copy:
            apart.insert_layer(each, None, 0)
        for kind in _components_off(image):
            apart.set_component_active(kind, False)
        copy.merge_filters()
        yield copy, original
    finally:
        apart.delete()


def _is_locked(group: Any | None) -> bool:
    while group is not None:
        if group.get_lock_content():
            return True
        group = group.get_parent()
    return False


def _examine(image: Any, layer: Any, output: str) -> list[Any]:
    """Return what must not change while ``layer`` is painted.

    That is the type of its pixels, its size, and if it has filters, also these and its
    position, as a copy is painted then. Raises :class:`LayerError` if it cannot be
    painted.
    """
    check(image, [layer])
    check_output(layer, output)
    kind = int(layer.type()), int(image.get_precision())
    size = layer.get_width(), layer.get_height()
    filters = [
        (each.get_id(), each.get_opacity(), int(each.get_blend_mode()))
        for each in _filters(layer)
    ]
    place = layer.get_offsets()[1:] if filters else ()
    return [*kind, *size, *place, *filters]


def _checksum(buffer: Any, band: Any) -> int:
    """Return the checksum of the bytes as GIMP holds them: conversions may round."""
    return crc32(buffer.get(band, 1.0, None, Gegl.AbyssPolicy.NONE))


def pixel_format(image: Any) -> str:
    """Return the protocol's format that holds the image's pixels without loss.

    Reading another profile's colours as sRGB in 8 bits would clip them.
    """
    profile = image.get_color_profile()
    if image.get_precision() in (
        Gimp.Precision.U8_NON_LINEAR,
        Gimp.Precision.U8_PERCEPTUAL,
    ) and (profile is None or profile.is_equal(Gimp.ColorProfile.new_rgb_srgb())):
        return "u8"
    return "f32"


def stylize(
    worker: Worker,
    image: Any,
    layer: Any,
    settings: Settings,
    *,
    progress: Callable[[float], None],
    idle: Callable[[], None] = lambda: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Stylize ``layer`` as one undo step, and return the header of the answer.

    The layer stays unchanged until the last pixel has arrived. Raises
    :class:`CancelledError` when ``cancelled`` returns true; if pixels were being
    transferred then, the worker is closed.
    """
    state = _examine(image, layer, settings.output)
    new = settings.output == NEW_LAYER

    def check_again() -> None:
        if _examine(image, layer, settings.output) != state:
            raise LayerError(_CHANGED)

    with _with_filters_merged(layer) as (source, original):
        size = source.get_width(), source.get_height()
        name = pixel_format(image)
        babl, pixel_bytes = _BABL[name], PIXEL_BYTES[name]
        total = size[0] * size[1] * pixel_bytes
        bands = _bands(*size, pixel_bytes)
        painted: list[int] = []

        def moved(band: Any, first: float, last: float) -> None:
            progress(first + (last - first) * (band.y + band.height) / size[1])
            if cancelled():
                raise CancelledError

        def pixels() -> Iterator[bytes]:
            buffer, own = source.get_buffer(), original.get_buffer()
            for band in bands:
                check_again()  # GIMP ends a plug-in that reads a layer that is gone
                painted.append(_checksum(own, band))
                yield buffer.get(band, 1.0, babl, Gegl.AbyssPolicy.NONE)
                moved(band, 0.0, _SENT)

        def compare() -> None:
            """Raise :class:`LayerError` if the layer's pixels have changed."""
            check_again()
            own = layer.get_buffer()
            for band, checksum in zip(bands, painted, strict=True):
                check_again()
                if _checksum(own, band) != checksum:
                    raise LayerError(_CHANGED)
                moved(band, _FETCHED, 1.0)

        reply = worker.stylize(
            {
                **settings.request(),
                "width": size[0],
                "height": size[1],
                "format": name,
                "bytes": total,
            },
            pixels(),
            progress=lambda fraction: progress(_SENT + (_PAINTED - _SENT) * fraction),
            idle=idle,
            cancelled=cancelled,
        )
        try:
            check_again()
        except LayerError:
            worker.close()  # its painting will not be read
            raise
        target = _twin(layer, source) if new else source
        buffer = target.get_shadow_buffer() if target is layer else target.get_buffer()
        try:
            for band in bands:
                data = worker.read(band.width * band.height * pixel_bytes)
                check_again()
                buffer.set(band, babl, data)
                buffer.flush()
                moved(band, _PAINTED, 1.0 if new else _FETCHED)
            if not new:
                compare()
            check_again()
        except BaseException:
            worker.close()
            if new:
                target.delete()
            elif layer.is_valid():
                layer.free_shadow()
            raise

        image.undo_group_start()
        try:
            if new:
                _insert(image, layer, target, bands)
            elif not _merge(image, layer, source):
                raise LayerError(
                    "GIMP cannot change this layer: its pixels are locked."
                )
        finally:
            image.undo_group_end()
        layer.update(0, 0, *size)
        target.update(0, 0, *size)
        return reply


def _merge(image: Any, layer: Any, painted: Any) -> bool:
    """Merge the shadow through the selection; return False if GIMP refuses.

    The shadow is filled from ``painted`` unless that is ``layer`` itself.

    GIMP merges in float32, which cannot hold 32-bit integers and doubles, so pixels
    that are not selected are restored exactly. Undoing the merge covers that, too.
    """
    if painted is not layer:
        layer.merge_filters()
        whole = Gegl.Rectangle.new(0, 0, layer.get_width(), layer.get_height())
        shadow = layer.get_shadow_buffer()
        painted.get_buffer().copy(whole, Gegl.AbyssPolicy.NONE, shadow, whole)
        shadow.flush()
    if image.get_precision() not in _WIDER_THAN_FLOAT or Gimp.Selection.is_empty(image):
        return bool(layer.merge_shadow(True))
    _selected, left, top, width, height = layer.mask_intersect()
    offset_x, offset_y = layer.get_offsets()[1:]
    selection = image.get_selection().get_buffer()
    original = layer.copy()  # shares its tiles with the layer
    merged = bool(layer.merge_shadow(True))
    source, target = original.get_buffer(), layer.get_buffer()
    for y in range(top, top + height if merged else top):
        row = Gegl.Rectangle.new(left + offset_x, y + offset_y, width, 1)
        levels = selection.get(row, 1.0, "Y float", Gegl.AbyssPolicy.NONE)
        x = left
        for selected, run in groupby(memoryview(levels).cast("f"), bool):
            length = len(list(run))
            if not selected:
                place = Gegl.Rectangle.new(x, y, length, 1)
                source.copy(place, Gegl.AbyssPolicy.NONE, target, place)
            x += length
    target.flush()
    original.delete()
    return merged


def _bands(width: int, height: int, pixel_bytes: int) -> list[Any]:
    """Split a layer into rectangles of whole rows, of some megabytes each."""
    rows = max(1, _BAND_BYTES // (width * pixel_bytes))
    if rows > _TILE:
        rows -= rows % _TILE
    return [
        Gegl.Rectangle.new(0, top, width, min(rows, height - top))
        for top in range(0, height, rows)
    ]


def _twin(layer: Any, source: Any) -> Any:
    """Return an unattached plain layer for the result, displayed as ``layer`` is.

    It has the size and position of ``source``. GIMP would render a copy of a text layer
    or of a group again, over the result.
    """
    mode = layer.get_mode()
    if mode == Gimp.LayerMode.PASS_THROUGH:
        mode = Gimp.LayerMode.NORMAL  # pass-through is for groups only
    twin = Gimp.Layer.new(
        layer.get_image(),
        f"{layer.get_name()} stylized",
        source.get_width(),
        source.get_height(),
        layer.type_with_alpha(),
        layer.get_opacity(),
        mode,
    )
    twin.set_offsets(*source.get_offsets()[1:])
    twin.set_blend_space(layer.get_blend_space())
    twin.set_composite_space(layer.get_composite_space())
    twin.set_composite_mode(layer.get_composite_mode())
    twin.set_color_tag(layer.get_color_tag())
    twin.set_visible(layer.get_visible())
    if mask := layer.get_mask():
        own = twin.create_mask(Gimp.AddMaskType.BLACK)
        places = zip(mask.get_offsets()[1:], twin.get_offsets()[1:], strict=True)
        place = [there - here for there, here in places]
        own.combine_masks(mask, Gimp.ChannelOps.REPLACE, *place)
        twin.add_mask(own)
        twin.set_apply_mask(layer.get_apply_mask())
        twin.set_edit_mask(False)
    return twin


def _insert(image: Any, layer: Any, twin: Any, bands: list[Any]) -> None:
    """Put ``twin`` above ``layer``, transparent where nothing is selected."""
    place = layer.get_parent(), image.get_item_position(layer)
    if not image.insert_layer(twin, *place):
        twin.delete()
        raise LayerError("GIMP cannot put a new layer there: paint it again.")
    if Gimp.Selection.is_empty(image):
        return
    pixels, shadow = twin.get_buffer(), twin.get_shadow_buffer()
    babl, pixel_bytes = _BABL["f32"], PIXEL_BYTES["f32"]
    for band in bands:
        data = pixels.get(band, 1.0, babl, Gegl.AbyssPolicy.NONE)
        shadow.set(band, babl, data)
        pixels.set(band, babl, bytes(band.width * band.height * pixel_bytes))
    pixels.flush()
    shadow.flush()
    with _all_components(image):
        twin.merge_shadow(True)


def _components_off(image: Any) -> list[Any]:
    colored = image.get_base_type() == Gimp.ImageBaseType.RGB
    names = ("RED", "GREEN", "BLUE", "ALPHA") if colored else ("GRAY", "ALPHA")
    kinds = [getattr(Gimp.ChannelType, name) for name in names]
    return [kind for kind in kinds if not image.get_component_active(kind)]


@contextmanager
def _all_components(image: Any) -> Iterator[None]:
    """Let changes also affect components that are off in the Channels dialog."""
    off = _components_off(image)
    for kind in off:
        image.set_component_active(kind, True)
    try:
        yield
    finally:
        for kind in off:
            image.set_component_active(kind, False)


@dataclass(frozen=True)
class Thumbnail:
    """The layer and its selection, scaled down as a request needs them."""

    width: int
    height: int
    pixels: bytes
    mask: bytes | None
    gray: bool
    """Whether the layer is greyscale, so that the result becomes grey."""

    @classmethod
    def of(cls, image: Any, layer: Any, *sides: int) -> list[Thumbnail]:
        """Scale the layer down to each of ``sides``, the longest side in pixels."""
        with _with_filters_merged(layer) as (source, _original):
            return [cls._of(image, source, side) for side in sides]

    @classmethod
    def _of(cls, image: Any, source: Any, longest: int) -> Thumbnail:
        full = source.get_width(), source.get_height()
        scale = min(1.0, longest / max(full))
        width, height = (max(1, round(side * scale)) for side in full)
        pixels = source.get_buffer().get(
            Gegl.Rectangle.new(0, 0, width, height),
            scale,
            _BABL["u8"],
            Gegl.AbyssPolicy.CLAMP,
        )
        mask = None
        if not Gimp.Selection.is_empty(image):
            x, y = (round(offset * scale) for offset in source.get_offsets()[1:])
            rectangle = Gegl.Rectangle.new(x, y, width, height)
            selection = image.get_selection().get_buffer()
            mask = selection.get(rectangle, scale, "Y u8", Gegl.AbyssPolicy.NONE)
        return cls(width, height, pixels, mask, source.is_gray())

    def request(self) -> dict[str, Any]:
        """Return the part of a request that describes this thumbnail."""
        return {
            "width": self.width,
            "height": self.height,
            "format": "u8",
            "mask": self.mask is not None,
            "bytes": len(self.pixels) + len(self.mask or b""),
        }

    def body(self) -> list[bytes]:
        """Return the body of that request."""
        return [self.pixels, self.mask or b""]
