"""Read a scene window by window: rasters of any size with rasterio, plain images with OpenCV."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from ultralytics.utils import LOGGER

from yolo_uncert.options import OptionError
from yolo_uncert.scenes.images import SceneError, check_end, is_turned, read_upright, read_whole
from yolo_uncert.scenes.tiles import Tile

BY_OTHERS = (".aux.xml", ".ovr")
"""Endings of files beside a raster that others write when they look at it: statistics, overviews."""

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
        bands: Numbers from 1 of the bands that are no alpha channel.
        dtypes: Type of the pixels of each band by its number, those of an alpha channel among them.
        geo: Where it lies, if it says so.
    """

    width: int
    height: int
    bands: tuple[int, ...]
    dtypes: Mapping[int, np.dtype[Any]]
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
        kinds = dict(zip(dataset.indexes, dataset.colorinterp, strict=True))
        self.bands: tuple[int, ...] = tuple(band for band, kind in kinds.items() if kind.name != "alpha")
        types = zip(dataset.indexes, dataset.dtypes, strict=True)
        self.dtypes: Mapping[int, np.dtype[Any]] = {band: np.dtype(kind) for band, kind in types}
        self.geo: Georeference | None = _georeference(dataset)
        self._dataset, self._name = dataset, name

    def read(self, bands: Sequence[int], tile: Tile, step: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return bands and valid pixels of a window.

        Raises:
            SceneError: The file is damaged or cut off there.
        """
        from rasterio.enums import MaskFlags
        from rasterio.errors import RasterioError
        from rasterio.windows import Window

        window = Window(tile.x1, tile.y1, tile.x2 - tile.x1, tile.y2 - tile.y1)
        shape = (-(-(tile.y2 - tile.y1) // step), -(-(tile.x2 - tile.x1) // step))
        indexes = list(bands)
        try:
            # Bands of several types, as in a VRT, are not read together.
            groups = [indexes] if len({self.dtypes[band] for band in bands}) == 1 else [[i] for i in indexes]
            parts = [self._dataset.read(i, window=window, out_shape=(len(i), *shape)) for i in groups]
            mask = self._dataset.read_masks(indexes, window=window, out_shape=(len(indexes), *shape)) > 0
            if not set(indexes) <= set(self.bands):  # whoever asks for it means that the alpha channel is none
                masked_by = self._dataset.mask_flag_enums
                mask[[MaskFlags.alpha in masked_by[band - 1] for band in indexes]] = True
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
        self.bands: tuple[int, ...] = tuple(range(1, channels - alpha + 1))
        self.dtypes: Mapping[int, np.dtype[Any]] = dict.fromkeys(range(1, channels + 1), image.dtype)
        self.geo: Georeference | None = None
        self._image, self._alpha = image, image[:, :, -1] if alpha else None

    def read(self, bands: Sequence[int], tile: Tile, step: int = 1) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return bands and valid pixels of a window; band 1 is red."""
        window = slice(tile.y1, tile.y2, step), slice(tile.x1, tile.x2, step)
        # Only three channels are known to be blue, green, red.
        planes = [3 - band if len(self.bands) == 3 and band <= 3 else band - 1 for band in bands]
        values = self._image[window][:, :, planes].transpose(2, 0, 1)
        mask: npt.NDArray[np.bool_] = np.isfinite(values)
        if self._alpha is None or not set(bands) <= set(self.bands):
            return values, mask
        return values, mask & (self._alpha[window] > 0)


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


def companions(path: Path) -> tuple[set[Path], Georeference | None]:
    """Return what GDAL reads with a raster, and where that says it lies; no pixel is read.

    Returns:
        The file itself, world files and masks beside it and the parts of a mosaic; and the place, if there is one.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        return {path.resolve()}, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as dataset:
                files = {Path(name).resolve() for name in dataset.files if not name.endswith(BY_OTHERS)}
                return {file for file in files if file.is_file()}, _georeference(dataset)
        except RasterioError:  # whoever reads it says so
            return {path.resolve()}, None


def _georeference(dataset: Any) -> Georeference | None:
    crs = dataset.crs
    placed = crs and (crs.is_geographic or crs.is_projected) and not dataset.transform.is_identity
    return Georeference(tuple(dataset.transform)[:6], crs.to_string()) if placed else None


class BandsError(OptionError, SceneError):
    """A scene does not have the bands that are asked for."""


def pick_bands(raster: Raster, bands: Sequence[int] | int | None) -> tuple[int, int, int]:
    """Return the bands that become red, green and blue: the first three, or a single one for all.

    Args:
        raster: Open scene.
        bands: Three numbers from 1, or one, in the order of the file, where an alpha channel counts too; None for the
            rule above, without alpha (of two bands the first is taken).

    Raises:
        BandsError: There are no such bands.
    """
    chosen = (raster.bands[:3] if len(raster.bands) >= 3 else raster.bands[:1]) if bands is None else bands
    wanted = (chosen,) if isinstance(chosen, int) else tuple(chosen)
    if len(wanted) not in (1, 3) or not all(isinstance(b, int) and b in raster.dtypes for b in wanted):
        most = len(raster.dtypes)
        raise BandsError(f"bands must be one or three numbers from 1 to {most}, the bands of this scene, not {bands}")
    red, green, blue = wanted if len(wanted) == 3 else wanted * 3
    return red, green, blue


def _checked(raster: Raster, name: str) -> Raster:
    wrong = [str(raster.dtypes[band]) for band in raster.bands if raster.dtypes[band].kind not in "uif"]
    if wrong or not raster.bands:
        said = wrong[0] if wrong else "no kind"
        raise SceneError(f"{name} has pixels of type {said}: only integers and floats can be shown to a model")
    return raster
