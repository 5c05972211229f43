#!/usr/bin/env python3
"""Neural Style: a filter for GIMP 3 that paints a layer in the style of an artwork.

styleplug does the painting, in a separate Python; see worker_client.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import replace
from typing import Any

SYSTEM_PYTHON = "/usr/bin/python3"

try:
    import gi

    gi.require_version("Gegl", "0.4")
    gi.require_version("Gimp", "3.0")
except (ImportError, ValueError):
    # GIMP uses the first Python on its PATH. That is a virtual environment's if GIMP
    # was started from a terminal with an active one.
    if sys.executable == SYSTEM_PYTHON or not os.path.exists(SYSTEM_PYTHON):
        raise
    os.execv(SYSTEM_PYTHON, [SYSTEM_PYTHON, *sys.argv])
import layer as layers
from gi.repository import Gegl, Gimp, GLib, GObject
from layer import LayerError, Settings
from worker_client import CancelledError, Worker, WorkerError, first_of, start

PROCEDURE = "plug-in-styleplug"


def run(
    procedure: Any,
    run_mode: Any,
    image: Any,
    drawables: list[Any],
    config: Any,
    data: Any,
) -> Any:
    """Run the filter; errors are in the values returned, never raised."""
    status, message = Gimp.PDBStatusType.SUCCESS, None
    try:
        Gegl.init(None)
        layer = layers.check(image, drawables)
        if run_mode == Gimp.RunMode.INTERACTIVE:
            from dialog import StyleDialog

            StyleDialog(procedure, config, image, layer).run()
        else:
            _run_without_dialog(image, layer, Settings.of(config))
        Gimp.displays_flush()
    except CancelledError:
        status = Gimp.PDBStatusType.CANCEL
    except (LayerError, WorkerError) as error:
        status, message = Gimp.PDBStatusType.EXECUTION_ERROR, str(error)
    except Exception as error:  # noqa: BLE001 - GIMP would only call it a crash
        traceback.print_exc()
        status = Gimp.PDBStatusType.EXECUTION_ERROR
        message = f"{type(error).__name__}: {error}"
    if message is None:
        return procedure.new_return_values(status, GLib.Error())
    return procedure.new_return_values(
        status, GLib.Error.new_literal(Gimp.PlugIn.error_quark(), message, 0)
    )


def _run_without_dialog(image: Any, layer: Any, settings: Settings) -> None:
    layers.check_output(layer, settings.output)
    Gimp.progress_init("Neural Style")
    gimp = os.getppid()

    def end_with_gimp() -> None:
        if os.getppid() != gimp:
            raise CancelledError

    worker: Worker = start()
    try:
        styles = worker.hello()
        if not settings.style:
            settings = replace(settings, style=first_of(styles))
        layers.stylize(
            worker,
            image,
            layer,
            settings,
            progress=Gimp.progress_update,
            idle=end_with_gimp,
        )
    finally:
        worker.close()
        Gimp.progress_end()


class NeuralStyle(Gimp.PlugIn):
    """Registers the procedure, its menu entry and its arguments."""

    def do_set_i18n(self, name: str) -> bool:
        return False  # there are no translations

    def do_query_procedures(self) -> list[str]:
        return [PROCEDURE]

    def do_create_procedure(self, name: str) -> Any:
        procedure = Gimp.ImageProcedure.new(
            self, name, Gimp.PDBProcType.PLUGIN, run, None
        )
        procedure.set_image_types("RGB*, GRAY*")
        procedure.set_sensitivity_mask(Gimp.ProcedureSensitivityMask.DRAWABLE)
        procedure.set_menu_label("_Neural Style…")
        procedure.add_menu_path("<Image>/Filters/Artistic/")
        procedure.set_documentation(
            "Paint the layer in the style of an artwork",
            (
                "Paints the layer anew in the style of an artwork, by a neural "
                "network that runs on this computer. Honours the selection."
            ),
            name,
        )
        procedure.set_attribution("styleplug", "styleplug", "2026")

        flags = GObject.ParamFlags.READWRITE
        procedure.add_string_argument(
            "style",
            "St_yle",
            (
                "Name of a bundled style, full path of a .safetensors file or of any "
                "picture, or owner/name on the Hugging Face Hub; empty for the first"
            ),
            "",
            flags,
        )
        procedure.add_string_argument(
            "second-style",
            "_Blend with",
            "A second style to blend in, named like the first; empty for none",
            "",
            flags,
        )
        procedure.add_double_argument(
            "mix",
            "Its sh_are",
            "Share of the second style",
            0.0,
            1.0,
            0.5,
            flags,
        )
        procedure.add_double_argument(
            "strength",
            "Stren_gth",
            "How strongly the style is applied",
            0.0,
            1.0,
            1.0,
            flags,
        )
        procedure.add_double_argument(
            "style-scale",
            "Stroke si_ze",
            "Size of the brush strokes; 1 is the size the style was trained at",
            0.25,
            4.0,
            1.0,
            flags,
        )
        procedure.add_boolean_argument(
            "preserve-color",
            "_Keep colours",
            "Keep the colours of the layer, take only the brushwork",
            False,
            flags,
        )
        output = Gimp.Choice.new()
        output.add(layers.REPLACE, 0, "Replace layer", "Change the layer's pixels")
        output.add(
            layers.NEW_LAYER,
            1,
            "New layer above",
            "Keep the layer and put the result above it",
        )
        procedure.add_choice_argument(
            "output", "O_utput", "Where the result goes", output, "replace", flags
        )
        return procedure


Gimp.main(NeuralStyle.__gtype__, sys.argv)
