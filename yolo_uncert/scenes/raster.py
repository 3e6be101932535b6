"""Read a scene window by window: rasters of any size with rasterio, plain images with OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.config import OptionError
from yolo_uncert.scenes.images import SceneError, check_end, is_turned, read_upright, read_whole
from yolo_uncert.scenes.tiles import Tile

CACHE = 256
"""Megabytes that GDAL may keep of what it has read: by default it takes a share of the machine's memory."""


@dataclass(frozen=True)
class Georeference:
    """Where a scene lies.

    Attributes:
        transform: ``(a, b, c, d, e, f)``: a point at column x and row y (0, 0 is the corner of the first pixel) lies at
            ``(a x + b y + c, d x + e y + f)``.
        crs: Coordinate reference system of that point: text that rasterio reads, an EPSG code where there is one.
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str


class Raster(Protocol):
    """Pixels of an open scene.

    Attributes:
        width: Pixels.
        height: Pixels.
        count: Bands that are no alpha channel.
        dtypes: Type of the pixels of each of them.
        geo: Where it lies, if it says so.
    """

    width: int
    height: int
    count: int
    dtypes: tuple[np.dtype[Any], ...]
    geo: Georeference | None

    def read(self, bands: Sequence[int], tile: Tile, step: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return bands (numbered from 1) as ``Array[C, H, W]`` and the mask of the same shape of what is valid in each.

        With a ``step`` above 1 about every so many rows and columns.
        """


class GdalRaster:
    """A raster that rasterio reads, window by window.

    Args:
        dataset: Open dataset of rasterio.
        name: Its name in messages.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        if not dataset.count:
            raise SceneError(f"{name} has no band" + ("; name one of its subdatasets" if dataset.subdatasets else ""))
        if "palette" in [kind.name for kind in dataset.colorinterp]:
            raise SceneError(f"{name} has a colour table: convert it with gdal_translate -expand rgb")
        if any("complex" in kind for kind in dataset.dtypes):
            raise SceneError(f"{name} has complex pixels ({dataset.dtypes[0]}): convert them to amplitudes first")
        self.width, self.height = dataset.width, dataset.height
        self._bands = [i for i, kind in zip(dataset.indexes, dataset.colorinterp, strict=True) if kind.name != "alpha"]
        self.count = len(self._bands)
        self.dtypes = tuple(np.dtype(dataset.dtypes[band - 1]) for band in self._bands)
        crs = dataset.crs
        placed = crs and (crs.is_geographic or crs.is_projected) and not dataset.transform.is_identity
        self.geo: Georeference | None = Georeference(tuple(dataset.transform)[:6], crs.to_string()) if placed else None
        self._dataset, self._name = dataset, name

    def read(self, bands: Sequence[int], tile: Tile, step: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return bands and valid pixels of a window.

        Raises:
            SceneError: The file is damaged or cut off there.
        """
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        window = Window(tile.x1, tile.y1, tile.x2 - tile.x1, tile.y2 - tile.y1)
        shape = (-(-(tile.y2 - tile.y1) // step), -(-(tile.x2 - tile.x1) // step))
        indexes = [self._bands[band - 1] for band in bands]
        try:
            # Bands of several types, as in a VRT, are not read together.
            groups = [indexes] if len({self.dtypes[band - 1] for band in bands}) == 1 else [[i] for i in indexes]
            parts = [self._dataset.read(i, window=window, out_shape=(len(i), *shape)) for i in groups]
            mask = self._dataset.read_masks(indexes, window=window, out_shape=(len(indexes), *shape)) > 0
        except (RasterioError, ValueError) as error:
            reason = error.__cause__ or error
            raise SceneError(f"{self._name} is damaged or cut off at {tuple(tile)}: {reason}") from error
        values = np.concatenate(parts)
        return values, mask & np.isfinite(values)


class ImageRaster:
    """An image that is in memory as a whole.

    Args:
        image: ``Array[H, W]`` or ``Array[H, W, C]``, channels in the order of OpenCV: blue first, alpha last of four.
    """

    def __init__(self, image: npt.NDArray[Any]) -> None:
        image = image[:, :, None] if image.ndim == 2 else image
        if image.ndim != 3 or not image.size:
            raise SceneError(f"a scene must be Array[H, W] or Array[H, W, C] with pixels in it, not {image.shape}")
        self.height, self.width, channels = image.shape
        alpha = channels in (2, 4)
        self.count = channels - alpha
        self.dtypes = (image.dtype,) * self.count
        self.geo: Georeference | None = None
        self._image, self._alpha = image, image[:, :, -1] if alpha else None

    def read(self, bands: Sequence[int], tile: Tile, step: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return bands and valid pixels of a window; band 1 is red."""
        window = slice(tile.y1, tile.y2, step), slice(tile.x1, tile.x2, step)
        # Only three channels are known to be blue, green, red.
        planes = [self.count - band if self.count == 3 else band - 1 for band in bands]
        values = self._image[window][:, :, planes].transpose(2, 0, 1)
        mask: npt.NDArray[np.bool_] = np.isfinite(values)
        return values, mask if self._alpha is None else mask & (self._alpha[window] > 0)


@contextmanager
def open_raster(source: str | Path | npt.NDArray[Any]) -> Iterator[Raster]:
    """Open a scene.

    Args:
        source: A file, or an image in memory as OpenCV reads it.

    Yields:
        The raster; closed afterwards.

    Raises:
        FileNotFoundError: There is no such file.
        SceneError: It cannot be read, has no band, or pixels of a type that is no number.
    """
    if isinstance(source, np.ndarray):
        yield _checked(ImageRaster(source), "the image")
        return
    name = str(source)
    if "://" not in name and not name.startswith("/vsi") and ":" not in name[2:] and not Path(name).exists():
        raise FileNotFoundError(f"source={name}: there is no such file")
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        yield _checked(ImageRaster(read_whole(name)), name)
        return
    with rasterio.Env(GDAL_CACHEMAX=CACHE), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the results say so
        try:
            dataset = rasterio.open(name)
        except RasterioError as error:
            if Path(name).is_dir():
                raise SceneError(f"{name} is a folder in which no file has the ending of a raster") from error
            raise SceneError(f"{name} is no raster that can be read, or damaged: {error}") from error
        with dataset:
            if dataset.driver == "PNG" and Path(name).is_file():
                check_end(name)
            raster: Raster = GdalRaster(dataset, name)
            if raster.geo is None and is_turned(name):
                LOGGER.info(f"{name} is read as a whole, and turned as its camera says (EXIF)")
                raster = ImageRaster(read_upright(name))
            yield _checked(raster, name)


def pick_bands(count: int, bands: Sequence[int] | int | None) -> tuple[int, int, int]:
    """Return the bands that become red, green and blue: the first three, or a single one for all.

    Args:
        count: Bands that the scene has, without alpha.
        bands: Three numbers from 1, or one; None for the rule above (of two bands the first is taken).

    Raises:
        OptionError: There are no such bands.
    """
    chosen = ((1, 2, 3) if count >= 3 else (1,)) if bands is None else bands
    wanted = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    if len(wanted) not in (1, 3) or not all(isinstance(b, int) and 1 <= b <= count for b in wanted):
        raise OptionError(f"bands must be one or three numbers from 1 to {count}, the bands of this scene, not {bands}")
    red, green, blue = wanted if len(wanted) == 3 else wanted * 3
    return red, green, blue


def _checked(raster: Raster, name: str) -> Raster:
    wrong = [str(kind) for kind in raster.dtypes if kind.kind not in "uif"]
    if wrong or raster.count < 1:
        said = wrong[0] if wrong else "no kind"
        raise SceneError(f"{name} has pixels of type {said}: only integers and floats can be shown to a model")
    return raster
