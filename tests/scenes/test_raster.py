from __future__ import annotations

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base
from ultralytics.utils.patches import imread

from yolo_uncert.options import OptionError
from yolo_uncert.scenes.images import SceneError
from yolo_uncert.scenes.pixels import choose_look, read_tile
from yolo_uncert.scenes.raster import GdalRaster, ImageRaster, open_raster, pick_bands
from yolo_uncert.scenes.tiles import Tile

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")

WHOLE = Tile(0, 0, 30, 20)


def ramp(count=3, dtype=np.uint8, height=20, width=30):
    """Bands with the values 0, 1, 2, ... times their number."""
    plane = np.arange(height * width).reshape(height, width) % 80
    return np.stack([plane * (band + 1) for band in range(count)]).astype(dtype)


def shown(raster, bands=None, tile=WHOLE, stretch=(2, 98)):
    return read_tile(raster, tile, choose_look(raster, pick_bands(raster, bands), stretch))


@pytest.mark.parametrize(
    ("count", "bands", "expected"),
    [
        (1, None, (1, 1, 1)),
        (2, None, (1, 1, 1)),
        (3, None, (1, 2, 3)),
        (8, None, (1, 2, 3)),
        (8, (5, 3, 2), (5, 3, 2)),
        (8, 7, (7, 7, 7)),
        (8, [7], (7, 7, 7)),
    ],
)
def test_bands(count, bands, expected):
    assert pick_bands(ImageRaster(np.zeros((2, 2, count), np.uint8)), bands) == expected


@pytest.mark.parametrize("bands", [(1, 2), (0, 1, 2), (1, 2, 5), "red", (1.0, 2, 3)])
def test_bands_that_are_not_there(bands):
    with pytest.raises(OptionError, match="from 1 to 4"):
        pick_bands(ImageRaster(np.zeros((2, 2, 4), np.uint8)), bands)


def test_eight_bits_stay_as_they_are(write_tif):
    values = ramp(4)
    with open_raster(write_tif(values, photometric="MINISBLACK")) as raster:
        assert (raster.width, raster.height, raster.bands, raster.geo) == (30, 20, (1, 2, 3, 4), None)
        image = shown(raster)
        assert (image == values[[2, 1, 0]].transpose(1, 2, 0)).all(), "blue first"
        assert (shown(raster, (4, 1, 1))[..., 2] == values[3]).all()
        part = shown(raster, tile=Tile(10, 5, 20, 15))
        assert (part == image[5:15, 10:20]).all()


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32, np.int32])
def test_other_types_are_stretched_between_percentiles_of_the_scene(write_tif, dtype):
    # 600 values 0..4095: percentiles 0 and 100 are the ends, so v becomes round(v / 4095 * 255).
    values = np.linspace(0, 4095, 600).round().reshape(1, 20, 30).astype(dtype)
    with open_raster(write_tif(values)) as raster:
        image = shown(raster, stretch=(0, 100))
        assert (image[..., 0] == np.rint(values[0] / 4095 * 255)).all()
        # The lowest and highest 2 percent, 12 of 600 values, are clipped; a tile is shown as the scene is.
        image = shown(raster)
        assert [(image[..., 0] == end).sum() for end in (0, 255)] == pytest.approx([12, 12], abs=2)
        assert (shown(raster, tile=Tile(3, 3, 9, 9)) == image[3:9, 3:9]).all()


def test_nodata_is_black_and_takes_no_part_in_the_stretch(write_tif):
    values = np.full((1, 20, 30), 65535, np.uint16)
    values[:, :, 10:] = np.linspace(100, 200, 400).reshape(20, 20)
    with open_raster(write_tif(values, nodata=65535)) as raster:
        image = shown(raster, stretch=(0, 100))
        assert not image[:, :10].any()
        assert (image[0, 10, 0], image[-1, -1, 0]) == (0, 255)
        assert shown(raster, tile=Tile(0, 0, 10, 20)) is None


def test_nan_is_nodata(write_tif):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(1, 20, 30)
    values[:, :, :5] = np.nan
    with open_raster(write_tif(values)) as raster:
        assert shown(raster, tile=Tile(0, 0, 5, 20)) is None
        assert shown(raster).max() == 255


def test_alpha_is_no_band_but_a_mask(write_tif):
    values = ramp(4)
    values[3] = 255
    values[3, :, :6] = 0
    values[:3, :, :] += 1
    with open_raster(write_tif(values, photometric="RGB", ALPHA="YES")) as raster:
        assert raster.bands == (1, 2, 3)
        image = shown(raster)
        assert not image[:, :6].any()
        assert (image[:, 6:] == values[[2, 1, 0], :, 6:].transpose(1, 2, 0)).all()


def test_bands_have_the_numbers_of_the_file(write_tif):
    rasterio = pytest.importorskip("rasterio")
    from rasterio.enums import ColorInterp

    values = np.repeat(np.uint8([10, 20, 30, 255, 50, 60])[:, None, None], 600, 1).reshape(6, 20, 30)
    colours = ("red", "green", "blue", "alpha", "undefined", "undefined")
    path = write_tif(values)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp[colour] for colour in colours]
    with open_raster(path) as raster:
        assert raster.bands == (1, 2, 3, 5, 6)
        assert shown(raster)[0, 0].tolist() == [30, 20, 10]
        assert shown(raster, (5, 3, 2))[0, 0].tolist() == [20, 30, 50]
        assert shown(raster, (6, 4, 2))[0, 0].tolist() == [20, 255, 60]
        with pytest.raises(SceneError, match="from 1 to 6, the bands of this scene"):
            pick_bands(raster, (7, 3, 2))


def test_what_a_file_calls_alpha_may_be_a_band(write_tif):
    values = ramp(4)  # GDAL takes the fourth of four bytes for alpha: near infrared that is 0 would hide the rest
    values[3, :, :6] = 0
    with open_raster(write_tif(values, photometric="RGB", ALPHA="YES")) as raster:
        image = shown(raster, (4, 3, 2))
        assert (image == values[[1, 2, 3]].transpose(1, 2, 0)).all()


def test_a_named_alpha_band_leaves_nodata_what_it_is(write_tif):
    values = ramp(4) + np.uint8(1)
    values[:, :, :6] = 0
    with open_raster(write_tif(values, photometric="RGB", ALPHA="YES", nodata=0)) as raster:
        assert not shown(raster, (4, 3, 2))[:, :6].any()
        _, mask = raster.read((4, 3, 2), WHOLE)
        assert not mask[:, :, :6].any()
        assert mask[:, :, 6:].all()


def test_a_band_of_one_value_is_black(write_tif):
    with open_raster(write_tif(np.full((1, 20, 30), 700, np.uint16))) as raster:
        assert not shown(raster).any()


def test_all_nodata(write_tif):
    path = write_tif(np.zeros((1, 20, 30), np.uint16), nodata=0)
    with open_raster(path) as raster, pytest.raises(SceneError, match="no valid pixel"):
        shown(raster)
    path = write_tif(np.full((1, 20, 30), np.nan, np.float32))
    with open_raster(path) as raster, pytest.raises(SceneError, match="no valid pixel"):
        shown(raster)


def test_files_that_are_no_rasters(tmp_path):
    pytest.importorskip("rasterio")
    with pytest.raises(FileNotFoundError, match="there is no such file"), open_raster(tmp_path / "no.tif"):
        pass
    file = tmp_path / "noise.tif"
    file.write_bytes(b"II*\0" + bytes(range(256)))
    with pytest.raises(SceneError, match=r"noise\.tif is no raster that can be read, or damaged"), open_raster(file):
        pass


def test_a_truncated_file_says_where_it_ends(write_tif):
    path = write_tif(np.random.default_rng(0).integers(0, 255, (3, 400, 400), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:200_000])
    with open_raster(path) as raster, pytest.raises(SceneError, match=r"damaged or cut off at \(0, 300, 100, 400\)"):
        shown(raster, tile=Tile(0, 300, 100, 400))


def smooth(height=600, width=500):
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8), (9, 9), 3)


@pytest.mark.parametrize("with_rasterio", [True, False])
@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif"])
def test_a_truncated_image_does_not_come_back_as_grey(tmp_path, monkeypatch, suffix, with_rasterio):
    if not with_rasterio:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    file = tmp_path / f"scene.{suffix}"
    cv2.imwrite(str(file), smooth())
    with open_raster(file) as raster:
        assert shown(raster, tile=Tile(0, 0, 500, 600)).shape == (600, 500, 3)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    with (
        pytest.raises(SceneError, match=rf"scene\.{suffix} is (no (raster|image) that .*, or )?damaged"),
        open_raster(file) as raster,
    ):
        shown(raster, tile=Tile(0, 0, 500, 600))


@pytest.mark.parametrize("with_rasterio", [True, False])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_as_its_camera_was_held(tmp_path, monkeypatch, orientation, with_rasterio):
    if with_rasterio:
        pytest.importorskip("rasterio")
    else:
        monkeypatch.setitem(sys.modules, "rasterio", None)
    file, exif = tmp_path / "scene.jpg", Image.Exif()
    exif[Base.Orientation] = orientation
    Image.fromarray(smooth(64, 48)).save(file, exif=exif, quality=95, subsampling=0)
    upright = imread(str(file))  # what predict, val and prepare read
    with open_raster(file) as raster:
        assert (raster.height, raster.width) == upright.shape[:2]
        np.testing.assert_allclose(shown(raster, tile=Tile(0, 0, raster.width, raster.height)), upright, atol=8)


def test_a_folder_without_rasters(tmp_path):
    pytest.importorskip("rasterio")
    with (
        pytest.raises(SceneError, match="is a folder in which no file has the ending of a raster"),
        open_raster(tmp_path),
    ):
        pass


def test_a_truncated_tiff_of_jpeg_tiles(write_tif):
    profile = {"compress": "JPEG", "tiled": True, "blockxsize": 256, "blockysize": 256}
    path = write_tif(smooth(600, 600).transpose(2, 0, 1), **profile)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with open_raster(path) as raster, pytest.raises(SceneError, match="damaged or cut off at"):
        shown(raster, tile=Tile(300, 300, 600, 600))


def test_a_png_with_another_byte_in_the_middle(tmp_path):
    pytest.importorskip("rasterio")
    file = tmp_path / "scene.png"
    cv2.imwrite(str(file), smooth())
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SceneError, match="damaged or cut off: broken PNG file"), open_raster(file):
        pass


def test_a_raster_without_bands(tmp_path):
    pytest.importorskip("rasterio")
    file = tmp_path / "none.vrt"
    file.write_text('<VRTDataset rasterXSize="10" rasterYSize="10"></VRTDataset>')
    with pytest.raises(SceneError, match="no raster that can be read"), open_raster(file):
        pass
    with pytest.raises(SceneError, match=r"a\.nc has no band; name one of its subdatasets"):
        GdalRaster(SimpleNamespace(count=0, subdatasets=["NETCDF:a.nc:x"]), "a.nc")


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, "complex_int16"])
def test_complex_pixels(write_tif, dtype):
    kind = {"dtype": dtype} if isinstance(dtype, str) else {}
    path = write_tif(np.zeros((1, 20, 30), np.complex64 if kind else dtype), **kind)
    with pytest.raises(SceneError, match="complex pixels"), open_raster(path):
        pass


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint64, np.float64])
def test_rare_types_of_pixels(write_tif, dtype):
    values = np.linspace(0, 100, 600).round().reshape(1, 20, 30).astype(dtype)
    with open_raster(write_tif(values)) as raster:
        assert (shown(raster, stretch=(0, 100))[..., 0] == np.rint(values[0] / 100.0 * 255)).all()


def test_a_colour_table(write_tif):
    rasterio = pytest.importorskip("rasterio")
    path = write_tif(ramp(1))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (255, 0, 0, 255)})
    with pytest.raises(SceneError, match="colour table"), open_raster(path):
        pass


def test_images_in_memory():
    bgr = ramp(3).transpose(1, 2, 0)
    assert (shown(ImageRaster(bgr)) == bgr).all()
    assert (shown(ImageRaster(bgr), (3, 3, 3))[..., 0] == bgr[..., 0]).all(), "the third band is blue"
    assert (shown(ImageRaster(bgr[..., 0])) == bgr[..., :1]).all()
    clear = np.dstack((bgr, np.zeros((20, 30), np.uint8)))
    assert shown(ImageRaster(clear)) is None
    with pytest.raises(SceneError, match="pixels of type bool"), open_raster(np.zeros((4, 4), bool)):
        pass
    with pytest.raises(SceneError, match="with pixels in it"), open_raster(np.zeros((0, 4, 3), np.uint8)):
        pass


def test_without_rasterio_images_are_read_whole(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "rasterio", None)
    bgr = ramp(3).transpose(1, 2, 0)
    cv2.imwrite(str(tmp_path / "scene.png"), bgr)
    with open_raster(tmp_path / "scene.png") as raster:
        assert (shown(raster) == bgr).all()
        assert raster.geo is None
    assert "read as a whole and without georeference, because rasterio is not installed" in caplog.text
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(SceneError, match="no image that OpenCV reads"), open_raster(tmp_path / "bad.png"):
        pass


def test_bands_of_several_types_are_stretched_together(write_tif, tmp_path):
    pytest.importorskip("rasterio")
    from rasterio.shutil import copy

    byte = write_tif(np.full((1, 20, 30), 100, np.uint8), "byte.tif")
    words = np.linspace(1000, 3000, 600).reshape(1, 20, 30).astype(np.uint16)
    word = write_tif(words, "word.tif")
    copy(byte, tmp_path / "stack.vrt", driver="VRT")
    text = (tmp_path / "stack.vrt").read_text()
    source = text[text.index("<SimpleSource") : text.index("</SimpleSource>")].replace("byte.tif", "word.tif")
    band = f'<VRTRasterBand dataType="UInt16" band="2">{source}</SimpleSource></VRTRasterBand></VRTDataset>'
    (tmp_path / "stack.vrt").write_text(text.replace("</VRTDataset>", band))
    assert word.exists()
    with open_raster(tmp_path / "stack.vrt") as raster:
        assert raster.dtypes == {1: np.uint8, 2: np.uint16}
        image = shown(raster, (2, 2, 2), stretch=(0, 100))
        assert (image[..., 0] == np.rint((words[0] - 1000) / 2000 * 255)).all()
        mixed = shown(raster, (1, 2, 2), stretch=(0, 100))
        assert not mixed[..., 2].any(), "a band of one value"
        assert (mixed[..., 0] == image[..., 0]).all()
        assert (shown(raster, 1) == 100).all(), "by itself it is of 8 bits"


def test_nodata_of_one_band_is_its_own_affair(write_tif):
    values = np.stack([np.linspace(1000, 2000, 600).reshape(20, 30)] * 4).astype(np.int16)
    values[0, :, :3] = -9999
    values[:3, :, 20:] = -9999
    with open_raster(write_tif(values, nodata=-9999, photometric="MINISBLACK")) as raster:
        look = choose_look(raster, (1, 2, 3), (0, 100))
        assert look.low == (values[0, 0, 3], values[1, 0, 0], values[2, 0, 0])
        image = read_tile(raster, WHOLE, look)
        assert not image[:, :3, 2].any(), "red is missing there"
        assert image[1:, :3, 0].all(), "blue is not"
        assert not image[:, 20:].any()
        assert read_tile(raster, Tile(20, 0, 30, 20), look) is None, "band 4, which is not shown, makes nothing valid"


@pytest.mark.parametrize("nodata", [0, 255])
def test_colours_that_hold_the_nodata_value_stay(write_tif, nodata):
    values = np.full((3, 20, 30), nodata, np.uint8)
    values[1, :, 10:] = 200
    with open_raster(write_tif(values, nodata=nodata, photometric="RGB")) as raster:
        image = shown(raster)
    assert not image[:, :10].any()
    assert (image[:, 10:] == [nodata, 200, nodata]).all()
