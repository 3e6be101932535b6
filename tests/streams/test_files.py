from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from yolo_uncert.streams.capture import FALLBACK_FPS
from yolo_uncert.streams.files import Files

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def huge_png():
    """An image of 10 gigapixels, in a few bytes: OpenCV raises an error at it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


@pytest.fixture
def folder(tmp_path):
    """Images a to e that can be read, and five that cannot."""
    for name in "abcde":
        cv2.imwrite(str(tmp_path / f"{name}.png"), IMAGE)
    whole = cv2.imencode(".jpg", cv2.resize(IMAGE, (640, 480)))[1].tobytes()
    (tmp_path / "b1.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b2.jpg").write_bytes(b"no image")
    (tmp_path / "b3.jpg").touch()
    (tmp_path / "b4.jpg").mkdir()
    (tmp_path / "b5.png").write_bytes(huge_png())
    return tmp_path


def names(loader):
    return [Path(path).name for paths, _, _ in loader for path in paths]


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_damaged_images_are_reported_and_left_out(folder, batch, caplog):
    loader = Files(folder, batch)
    assert names(loader) == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert {Path(p).name for p in loader.skipped} == {"b1.jpg", "b2.jpg", "b3.jpg", "b4.jpg", "b5.png"}
    assert loader.bs == batch
    for path, reason in loader.skipped.items():
        assert caplog.text.count(f"{path}: {reason}") == 1
    assert "is no image, or damaged" in loader.skipped[str(folder / "b2.jpg")]
    assert "pixels" in loader.skipped[str(folder / "b5.png")]


@pytest.mark.parametrize("batch", [1, 4])
def test_damaged_videos_are_reported_and_the_rest_goes_on(tmp_path, clip, batch):
    clip(tmp_path / "a.mp4")
    whole = Path(clip(tmp_path / "b.mp4", 200)).read_bytes()
    (tmp_path / "b.mp4").write_bytes(whole[: len(whole) // 2])  # without its index, which is at the end
    whole = Path(clip(tmp_path / "c.avi", 60, codec="MJPG")).read_bytes()
    (tmp_path / "c.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.mp4").touch()
    clip(tmp_path / "e.mp4")
    cv2.imwrite(str(tmp_path / "z.png"), IMAGE)
    loader = Files(tmp_path, batch)
    seen = names(loader)
    assert [seen.count(n) for n in ("z.png", "a.mp4", "b.mp4", "d.mp4", "e.mp4")] == [1, 10, 0, 0, 10]
    assert 10 < seen.count("c.avi") < 40
    reasons = {Path(p).name: r for p, r in loader.skipped.items()}
    assert reasons.keys() == {"b.mp4", "c.avi", "d.mp4"}
    assert f"{seen.count('c.avi')} of 60 frames were read" in reasons["c.avi"]
    assert reasons["b.mp4"] == "is no video, damaged, or cut off before its index"


def test_whole_videos_are_not_complained_about(tmp_path, clip):
    loader = Files([clip(tmp_path / "a.mp4", 11), clip(tmp_path / "b.avi", 7, codec="MJPG")], stride=2)
    assert names(loader) == ["a.mp4"] * 5 + ["b.avi"] * 3
    assert loader.skipped == {}
    assert loader.fps == pytest.approx(29.97)


def test_only_damaged_files(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.mp4").touch()
    assert names(Files(tmp_path)) == []


def test_empty_folder_and_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No images or videos found in"):
        Files(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg does not exist"):
        Files("nowhere.jpg")
    with pytest.raises(FileNotFoundError, match=r"None of these exists: a\.jpg, b\.jpg"):
        Files(["a.jpg", "b.jpg"])


@pytest.mark.parametrize(("count", "batch", "sizes"), [(5, 1, [5]), (130, 1, [64, 64, 2]), (130, 100, [100, 30])])
def test_list_of_images_is_one_batch_up_to_a_limit(folder, count, batch, sizes):
    assert [len(images) for _, images, _ in Files([folder / "a.png"] * count, batch)] == sizes


def test_list_keeps_its_order_and_spelling(folder, clip, monkeypatch, caplog):
    monkeypatch.chdir(folder)
    clip(folder / "v.mp4", 2)
    loader = Files(["e.png", "v.mp4", "nowhere.png", folder / "a.png", "c.png", "a.png"])
    assert [p for paths, _, _ in loader for p in paths] == [
        "e.png",
        str(folder / "a.png"),
        "c.png",
        "a.png",
        *["v.mp4"] * 2,
    ]
    assert loader.skipped == {"nowhere.png": "does not exist"}
    assert "nowhere.png: does not exist" in caplog.text


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("l.txt", "a.png\n\n  c.png \nnowhere.png\nb2.jpg\n"),
        ("l.csv", "source\na.png,c.png\nnowhere.png\nb2.jpg\n"),
        ("l.txt", "[ac].pn*\nnowhere.png\nb2.jpg"),
    ],
)
def test_list_in_a_file_beside_the_images(folder, file, text):
    (folder / file).write_text(text)
    loader = Files(folder / file)
    assert names(loader) == ["a.png", "c.png"]
    assert {Path(p).name for p in loader.skipped} == {"nowhere.png", "b2.jpg"}


@pytest.mark.parametrize(("kind", "size"), [("file", 2), ("list", 5)])
def test_a_list_in_a_file_has_the_batches_that_are_asked_for(folder, kind, size):
    (folder / "l.txt").write_text("a.png\n" * 5)
    source = folder / "l.txt" if kind == "file" else [folder / "a.png"] * 5
    assert len(next(iter(Files(source, batch=2)))[0]) == size


def test_brackets_in_a_list_are_part_of_a_name(folder):
    (folder / "a.png").rename(folder / "a[1].png")
    (folder / "l.txt").write_text("a[1].png\nc.png")
    loader = Files(folder / "l.txt")
    assert names(loader) == ["a[1].png", "c.png"]
    assert loader.skipped == {}


def test_list_that_is_not_utf8_is_named(folder):
    (folder / "l.txt").write_bytes(b"gr\xfcn.png")
    with pytest.raises(ValueError, match=r"l\.txt is no list in UTF-8"):
        Files(folder / "l.txt")


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("one.png", IMAGE[:1, :1]),
        ("grey.png", IMAGE[..., 0]),
        ("rgba.png", np.dstack((IMAGE, IMAGE[..., :1]))),
        ("deep.png", IMAGE.astype(np.uint16) * 257),
        ("deep-grey.tiff", IMAGE[..., 0].astype(np.uint16) * 257),
        ("deep-rgba.png", np.dstack((IMAGE, IMAGE[..., :1])).astype(np.uint16) * 257),
        ("float.tiff", IMAGE.astype(np.float32) / 255),
        ("float-grey.tiff", IMAGE[..., 0].astype(np.float32)),
    ],
)
@pytest.mark.parametrize("channels", [3, 1])
def test_images_of_every_kind_become_eight_bit_bgr_or_grey(tmp_path, name, image, channels):
    cv2.imwrite(str(tmp_path / name), image)
    ((_, (loaded,), _),) = list(Files(tmp_path, channels=channels))
    assert (loaded.shape, loaded.dtype) == ((*image.shape[:2], channels), np.uint8)
    if channels == 3:
        colour = image.ndim == 3
        expected = IMAGE[: image.shape[0], : image.shape[1]] if colour else np.repeat(IMAGE[..., :1], 3, 2)
        assert np.array_equal(loaded, expected), "the same picture, whatever it was stored in; no alpha"


def test_video_without_a_rate_gets_one(tmp_path, clip, monkeypatch):
    path = clip(tmp_path / "a.avi", 3, codec="MJPG")
    timeless = SimpleNamespace(get=lambda key: 0.0, isOpened=lambda: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: timeless)
    assert Files(path).fps == FALLBACK_FPS
