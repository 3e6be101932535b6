"""Styles for QGIS: boxes outlined in the colour of their class, bands filled by their standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from ultralytics.utils.plotting import colors

from yolo_uncert.scenes.layers import Layer

DOCTYPE = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

STEPS = 5
"""Ranges of the standard deviation, about the same number of bands in each."""

RAMP = "YlOrRd"
"""Colours of the bands: pale where a box is sure, red where it is not."""

LABEL = '"name" || \' \' || format_number("score", 2)'

Colour = Sequence[int]


def style_of(layer: Layer) -> str:
    """Return the QML of a layer; QGIS reads it from a file beside a layer's own, or from a GeoPackage.

    Args:
        layer: ``boxes``, whose classes become a legend, or ``sigma``, whose standard deviations do: in metres, or in
            pixels where the scene does not say where it lies.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling")
    if layer.name == "sigma":
        root.set("labelsEnabled", "0")
        _graduated(root, layer)
    else:
        root.set("labelsEnabled", "1")
        _categorized(root, layer)
        _labels(root)
    indent(root)
    return DOCTYPE + tostring(root, encoding="unicode") + "\n"


def _categorized(root: Element, layer: Layer) -> None:
    """Outline each class in the colour that it has in pictures."""
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr="name", symbollevels="0")
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    classes = sorted(set(zip(layer.columns["class"], layer.columns["name"], strict=True)))
    for number, (index, name) in enumerate(classes):
        SubElement(categories, "category", value=name, label=name, symbol=str(number), render="true")
        _fill(symbols, number, None, colors(index))


def _graduated(root: Element, layer: Layer) -> None:
    """Fill the bands by their mean standard deviation."""
    from matplotlib import colormaps  # not before it is needed: it takes long to import

    unit = "m" if "std_m" in layer.columns else "px"
    renderer = SubElement(root, "renderer-v2", type="graduatedSymbol", attr=f"std_{unit}", symbollevels="0")
    renderer.set("graduatedMethod", "GraduatedColor")
    ranges, symbols = SubElement(renderer, "ranges"), SubElement(renderer, "symbols")
    known = [value for value in layer.columns[f"std_{unit}"] if value is not None] or [0.0]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, STEPS + 1)))
    pairs = list(pairwise(edges)) or [(edges[0], edges[0])]
    for number, (low, high) in enumerate(pairs):
        label = f"{low:.3g} - {high:.3g} {unit}"
        SubElement(ranges, "range", lower=str(low), upper=str(high), symbol=str(number), render="true", label=label)
        share = 0.2 + 0.8 * number / max(len(pairs) - 1, 1)
        colour = [round(255 * value) for value in colormaps[RAMP](share)[:3]]
        _fill(symbols, number, colour, None)


def _fill(symbols: Element, number: int, inside: Colour | None, outline: Colour | None) -> None:
    """Add a symbol: half-transparent inside without outline, or an outline with nothing inside."""
    symbol = SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1", force_rhr="0")
    layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
    properties: dict[str, Any] = {
        "color": _rgba(inside or (0, 0, 0), 150 if inside else 0),
        "style": "solid" if inside else "no",
        "outline_color": _rgba(outline or (0, 0, 0), 255 if outline else 0),
        "outline_style": "solid" if outline else "no",
        "outline_width": "0.5",
        "outline_width_unit": "MM",
        "joinstyle": "miter",
    }
    for key, value in properties.items():  # every QGIS 3 reads these; those from 3.18 on write others
        SubElement(layer, "prop", k=key, v=value)


def _labels(root: Element) -> None:
    """Write name and score beside each box, dark on a bright halo."""
    settings = SubElement(SubElement(root, "labeling", type="simple"), "settings")
    text = SubElement(settings, "text-style", fieldName=LABEL, isExpression="1", fontSize="8", fontSizeUnit="Point")
    text.set("textColor", "30,30,30,255")
    halo = {"bufferDraw": "1", "bufferSize": "0.8", "bufferSizeUnits": "MM", "bufferColor": "255,255,255,255"}
    SubElement(text, "text-buffer", {**halo, "bufferOpacity": "0.8"})
    SubElement(settings, "placement", placement="8", dist="0.5", distUnits="MM")
    SubElement(settings, "rendering", obstacle="0", drawLabels="1", displayAll="0")


def _rgba(colour: Colour, alpha: int) -> str:
    return ",".join(str(value) for value in (*colour, alpha))
