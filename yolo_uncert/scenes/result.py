"""Detections of a scene, and the files that they are written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.config import OptionError
from yolo_uncert.engine.boxes import UncertBoxes, UncertOBB
from yolo_uncert.engine.results import UncertResults
from yolo_uncert.evaluation import DotaDetections, corners, write_dota
from yolo_uncert.files import replacing
from yolo_uncert.output import JsonLinesWriter, rows_of
from yolo_uncert.scenes.geojson import feature_collection, write_json
from yolo_uncert.scenes.raster import Georeference


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
        return "_".join(Path(self.path).stem.split()) or "scene"

    @property
    def polygons(self) -> npt.NDArray[np.float64]:
        """Corners in pixels, ``Array[N, 4, 2]`` in order along the boundary; (0, 0) is the first pixel's corner."""
        data: Any = self.boxes.data
        if isinstance(self.boxes, UncertOBB):
            return corners(data[:, :5])
        return np.asarray(data[:, [[0, 1], [2, 1], [2, 3], [0, 3]]], np.float64)

    def geojson(self, crs: str = "wgs84") -> dict[str, Any]:
        """Return the detections as a GeoJSON FeatureCollection.

        Args:
            crs: ``wgs84``, longitude and latitude as RFC 7946 wants it; ``scene``, the scene's own reference system,
                named in a ``crs`` member as GeoJSON had it before (GDAL, QGIS and geopandas read it). A scene without
                georeference gives pixels with either, and says so in a member ``coordinates``.

        Raises:
            OptionError: ``crs`` is neither, or the scene's system has no EPSG code to name it by.
        """
        return feature_collection(self.boxes, self.names, self.polygons, self.geo, crs)

    def save(self, folder: str | Path) -> list[Path]:
        """Write all files; each appears under its name when it is complete, in place of one that was there.

        ``NAME.geojson`` in longitude and latitude and, where the scene's system is another one with an EPSG code,
        ``NAME-epsg32633.geojson``; without georeference ``NAME-pixels.geojson``. ``NAME.jsonl`` with one row per box,
        and the folder ``dota`` with a ``Task1_<class>.txt`` for each class, both in pixels.

        Args:
            folder: Where to; made if there is none.

        Returns:
            The files.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = [self._save_geojson(folder, "wgs84", "" if self.geo else "-pixels")]
        if self.geo and self.geo.crs != "EPSG:4326":
            try:
                written.append(self._save_geojson(folder, "scene", "-" + self.geo.crs.lower().replace(":", "")))
            except OptionError as error:
                LOGGER.warning(str(error))
        target = folder / f"{self.name}.jsonl"
        with replacing(target) as part:
            self._write_rows(part)
        names = [self.names[key] for key in sorted(self.names)]
        return [*written, target, *write_dota(folder / "dota", self._dota(), names)]

    def _save_geojson(self, folder: Path, crs: str, suffix: str) -> Path:
        content, target = self.geojson(crs), folder / f"{self.name}{suffix}.geojson"
        with replacing(target) as part:
            write_json(part, content)
        return target

    def _write_rows(self, path: Path) -> None:
        """Write one row per box, as of an image: the columns of ``rows`` in predict."""
        # Rows need the size of the image, not its pixels: a scene's worth of them takes no memory.
        blank = np.broadcast_to(np.uint8(0), (*self.boxes.orig_shape, 3))
        result = UncertResults(blank, self.path, self.names)
        oriented = isinstance(self.boxes, UncertOBB)
        setattr(result, "obb" if oriented else "boxes", self.boxes)
        with JsonLinesWriter(path, "obb" if oriented else "detect") as writer:
            writer.write(rows_of(result))

    def _dota(self) -> DotaDetections:
        data: Any = self.boxes.data
        classes = np.array([self.names[int(index)] for index in data[:, -1]], str)
        return DotaDetections(np.full(len(self), self.name), classes, data[:, -2], self.polygons)
