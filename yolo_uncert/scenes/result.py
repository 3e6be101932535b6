"""Detections of a scene, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.evaluation import DotaDetections, read_dota, write_dota
from yolo_uncert.evaluation.dota_boxes import class_name
from yolo_uncert.options import OptionError
from yolo_uncert.output import JsonLinesWriter, rows_of
from yolo_uncert.run_options import RunOptions
from yolo_uncert.scenes.geojson import feature_collection, write_json
from yolo_uncert.scenes.geopackage import write_geopackage
from yolo_uncert.scenes.layers import Layer, box_layer, outlines, sigma_layer
from yolo_uncert.scenes.raster import Georeference
from yolo_uncert.scenes.style import style_of
from yolo_uncert.scenes.targets import check_targets, remove_outdated, replacing_own

DOTA = "dota"
"""Folder with the result files of DOTA, beside the others."""

INTERVAL_LEVEL: float = RunOptions().interval_level
"""Probability of the intervals in the rows unless another one is given."""


def name_of(path: str) -> str:
    """Return the name of a scene as one word, for files: without folder, suffix and spaces."""
    return "_".join(Path(path).stem.split()) or "scene"


def class_names(names: Mapping[int, str]) -> list[str]:
    """Return the names of all classes by their index."""
    return [names[key] for key in sorted(names)]


@dataclass(frozen=True)
class SceneResult:
    """Detections of a scene.

    Attributes:
        path: File of the scene.
        names: Class names.
        boxes: Boxes in pixels of the scene by falling score, as of any image: ``std``, ``conf``, ``interval()``. The
            field ``cut`` is 1 where a box ends at a border of its tile and no tile saw it whole, else 0.
        geo: Where the scene lies, if it says so.
        tiles: Tiles that cover the scene.
        empty_tiles: Tiles without a valid pixel, which were not looked at.
    """

    path: str
    names: dict[int, str]
    boxes: UncertBoxes | UncertOBB
    geo: Georeference | None = None
    tiles: int = 1
    empty_tiles: int = 0

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def name(self) -> str:
        """Name of the scene as one word, for files: without folder, suffix and spaces."""
        return name_of(self.path)

    @property
    def polygons(self) -> npt.NDArray[np.float64]:
        """Corners in pixels, ``Array[N, 4, 2]`` in order along the boundary; (0, 0) is the first pixel's corner."""
        return outlines(self.boxes)

    @property
    def layers(self) -> list[Layer]:
        """The boxes and, if the model predicts standard deviations, the bands around their sides."""
        found = [box_layer(self.boxes, self.names, self.geo), sigma_layer(self.boxes, self.names, self.geo)]
        return [layer for layer in found if layer is not None]

    def geojson(self, crs: str = "wgs84", layer: str = "boxes") -> dict[str, Any]:
        """Return a layer as a GeoJSON FeatureCollection.

        Args:
            crs: ``wgs84``, longitude and latitude as RFC 7946 wants it; ``scene``, the scene's own reference system,
                named in a ``crs`` member as GeoJSON had it before (GDAL, QGIS and geopandas read it). A scene without
                georeference gives pixels with either, and says so in a member ``coordinates``.
            layer: ``boxes``, or ``sigma``: for each box the band between its sides moved inwards and outwards by two
                standard deviations.

        Raises:
            OptionError: ``crs`` or ``layer`` is none of these, the model predicts no standard deviations, or the
                scene's system has no EPSG code to name it by.
        """
        found = {entry.name: entry for entry in self.layers}
        if layer not in found:
            raise OptionError(f"layer is {layer!r}. This result has: {', '.join(found)}")
        return feature_collection(found[layer], self.geo, crs)

    def dota(self) -> DotaDetections:
        """Return the boxes as rows of DOTA's submission format, Task 1: name of the scene, class, score, corners.

        Those of several scenes, ``DotaDetections.stack([first.dota(), second.dota()])``, are what
        ``evaluation.write_dota`` writes and ``evaluation.evaluate_dota`` judges.
        """
        data: Any = self.boxes.data
        classes = np.array([self.names[int(index)] for index in data[:, -1]], str)
        # A view would keep all columns in memory.
        return DotaDetections(np.full(len(self), self.name), classes, data[:, -2].copy(), self.polygons)

    def save(self, folder: str | Path, *, dota: bool = True, interval_level: float = INTERVAL_LEVEL) -> list[Path]:
        """Write all files; each appears under its name when it is complete, in place of one of an earlier run.

        ``NAME.geojson`` and ``NAME-sigma.geojson`` in longitude and latitude and, where the scene's system is another
        one with an EPSG code, ``NAME-epsg32633.geojson``; ``NAME.gpkg`` with both layers in the scene's system. Without
        georeference ``NAME-pixels.geojson`` and ``NAME-pixels-sigma.geojson``. Beside each GeoJSON a ``.qml``, its
        style in QGIS. ``NAME.jsonl`` with one row per box, and the folder ``dota`` with a ``Task1_<class>.txt`` for
        each class, both in pixels; lines of other scenes that these have stay.

        Args:
            folder: Where to; made if there is none.
            dota: Write the folder ``dota``, too.
            interval_level: Probability of the intervals in the rows.

        Returns:
            The files.

        Raises:
            OptionError: A file would be replaced that is the scene itself, or that this package did not write.
        """
        folder = Path(folder)
        check_targets(folder, self.name, self.path)
        folder.mkdir(parents=True, exist_ok=True)
        layers = self.layers
        styles = {layer.name: style_of(layer) for layer in layers}
        written = []
        for layer in layers:
            suffix = ("" if self.geo else "-pixels") + ("-sigma" if layer.name == "sigma" else "")
            written += self._save_geojson(folder, layer, "wgs84", suffix, styles[layer.name])
        if self.geo and self.geo.crs != "EPSG:4326":
            suffix = "-" + self.geo.crs.lower().replace(":", "")
            try:
                written += self._save_geojson(folder, layers[0], "scene", suffix, styles["boxes"])
            except OptionError as error:
                LOGGER.warning(str(error))
        if self.geo:
            written += self._save_geopackage(folder, layers, self.geo, styles)
        target = folder / f"{self.name}.jsonl"
        with replacing_own(target, self.name) as part:
            self._write_rows(part, interval_level)
        written.append(target)
        remove_outdated(folder, self.name, written)  # an earlier run may have had another place, or no sigma
        return [*written, *self._save_dota(folder / DOTA)] if dota else written

    def _save_dota(self, folder: Path) -> list[Path]:
        """Write the rows beside those of other scenes."""
        rows, names = self.dota(), class_names(self.names)
        if any(folder.glob("Task1_*.txt")):
            known = read_dota(folder)
            other = known.images != self.name
            kept = (values[other] for values in (known.images, known.classes, known.scores, known.polygons))
            rows = DotaDetections.stack([DotaDetections(*kept), rows])
            names += sorted({*known.classes.tolist()} - {class_name(name) for name in names})
        return write_dota(folder, rows, names)

    def _save_geojson(self, folder: Path, layer: Layer, crs: str, suffix: str, style: str) -> list[Path]:
        content = feature_collection(layer, self.geo, crs)
        # A part of the name may look like a suffix: scene.v2.tif
        target, look = (folder / f"{self.name}{suffix}{kind}" for kind in (".geojson", ".qml"))
        with replacing_own(target, self.name) as part:
            write_json(part, content)
        with replacing_own(look, self.name) as part:
            part.write_text(style, encoding="utf-8")
        return [target, look]

    def _save_geopackage(
        self, folder: Path, layers: list[Layer], geo: Georeference, styles: dict[str, str]
    ) -> list[Path]:
        target = folder / f"{self.name}.gpkg"
        try:
            with replacing_own(target, self.name) as part:
                write_geopackage(part, layers, geo, styles)
        except ImportError as error:
            LOGGER.warning(f"no GeoPackage is written: {error}; pip install 'yolo-uncert[geo]'")
            return []
        return [target]

    def _write_rows(self, path: Path, level: float) -> None:
        """Write one row per box, as of an image: the columns of ``rows`` in predict."""
        # Rows need the size of the image, not its pixels: a scene's worth of them takes no memory.
        blank = np.broadcast_to(np.uint8(0), (*self.boxes.orig_shape, 3))
        result = UncertResults(blank, self.path, self.names)
        oriented = isinstance(self.boxes, UncertOBB)
        setattr(result, "obb" if oriented else "boxes", self.boxes)
        with JsonLinesWriter(path, "obb" if oriented else "detect") as writer:
            writer.write(rows_of(result, level=level))
