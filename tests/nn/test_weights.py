"""Pretrained weights in formats that execute nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from ultralytics.utils import LOGGER

from yolo_uncert.nn.weights import is_tensor_file, load_tensors, read_tensors


@pytest.fixture
def save(tmp_path):
    """Save tensors as .npz or .safetensors."""

    def write(tensors: dict[str, torch.Tensor], suffix: str) -> Path:
        path = tmp_path / f"weights{suffix}"
        if suffix.lower() == ".npz":
            with path.open("wb") as file:
                np.savez(file, **{k: v.numpy() for k, v in tensors.items()})
        else:
            save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        return path

    return write


@pytest.fixture
def info(monkeypatch):
    lines = []
    monkeypatch.setattr(LOGGER, "info", lines.append)
    return lines


SUFFIXES = pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".NPZ"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.npz", True),
        (Path("b/a.safetensors"), True),
        ("A.NPZ", True),
        ("a.pt", False),
        ("a.npz.pt", False),
        (True, False),
        (None, False),
    ],
)
def test_is_tensor_file(value, expected):
    assert is_tensor_file(value) is expected


@SUFFIXES
def test_round_trip(build, save, suffix, info):
    source = build("yolo11n.yaml", "detect", seed=1)
    path = save(source.state_dict(), suffix)
    model = build("yolo11n.yaml", "detect", {"gaussian": {}, "iou_aware": {}})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    count = len(load_tensors(model, path))
    assert count == len(source.state_dict())
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.state_dict().items())
    ours = loaded.keys() - source.state_dict().keys()
    assert all("cv_" in name and torch.equal(loaded[name], before[name]) for name in ours)
    assert f"Transferred {count}/{len(loaded)} items from {path}" in info


def test_half_precision_files_load_into_float32(build, save):
    source = build("yolo11n.yaml", "detect", seed=1)
    half = {k: v.half() if v.is_floating_point() else v for k, v in source.state_dict().items()}
    model = build("yolo11n.yaml", "detect")
    load_tensors(model, save(half, ".safetensors"))
    assert {v.dtype for v in model.state_dict().values()} == {torch.float32, torch.int64}
    assert torch.equal(model.model[0].conv.weight, half["model.0.conv.weight"].float())


def test_other_class_counts_keep_their_class_layers(build, save):
    source = build("yolo11n.yaml", "detect", {"gaussian": {}}, seed=1)
    tensors = {k: v.clone() for k, v in source.state_dict().items()}
    for level in range(3):
        for name in (f"model.23.cv3.{level}.2.weight", f"model.23.cv3.{level}.2.bias"):
            tensors[name] = tensors[name].repeat(2, *[1] * (tensors[name].ndim - 1))
    model = build("yolo11n.yaml", "detect", {"gaussian": {}})
    own = model.model[-1].cv3[0][-1].weight.clone()
    assert len(load_tensors(model, save(tensors, ".npz"))) == len(tensors) - 6
    assert torch.equal(model.model[-1].cv3[0][-1].weight, own)


@pytest.mark.parametrize("task", ["detect", "obb"])
def test_the_shared_coco_weights_fill_backbone_and_neck_of_yolov5n(build, shared_data, task):
    path = shared_data / "weights" / "yolov5n_coco_tensors.npz"
    tensors = read_tensors(path)
    # seven of them belong to the old anchor-based head, layer 24
    shared = {name: value for name, value in tensors.items() if not name.startswith("model.24.")}
    assert (len(tensors), len(shared)) == (349, 342)
    model = build("yolov5n.yaml", task, {"gaussian": {}, "dfl": {}})
    head = {k: v.clone() for k, v in model.model[24].state_dict().items()}
    assert load_tensors(model, path).keys() == shared.keys()
    weights = model.state_dict()
    assert shared.keys() == {k for k in weights if not k.startswith("model.24.")}
    assert all(torch.equal(weights[k], v.to(weights[k].dtype)) for k, v in shared.items())
    assert all(torch.equal(v, head[k]) for k, v in model.model[24].state_dict().items())


def test_the_shared_coco_weights_do_not_fit_another_architecture(build, shared_data):
    path = shared_data / "weights" / "yolov5n_coco_tensors.npz"
    model = build("yolo11n.yaml", "detect", {"gaussian": {}})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"only \d+ of the 349 tensors in .*npz fit this model by name and shape"):
        load_tensors(model, path)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@SUFFIXES
def test_tensors_that_do_not_fit(build, save, suffix):
    path = save({"model.0.conv.weight": torch.zeros(3, 3), "other": torch.zeros(2)}, suffix)
    with pytest.raises(ValueError, match=r"only 0 of the 2 tensors in .* fit this model by name and shape"):
        load_tensors(build("yolo11n.yaml", "detect"), path)


def test_a_fused_model_is_refused(build, save):
    source = build("yolo11n.yaml", "detect", {"gaussian": {}}, seed=1).fuse()
    model = build("yolo11n.yaml", "detect", {"gaussian": {}})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="without batch normalisation: its convolutions were fused"):
        load_tensors(model, save(source.state_dict(), ".npz"))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_empty_file(build, save):
    with pytest.raises(ValueError, match="only 0 of the 0 tensors"):
        load_tensors(build("yolo11n.yaml", "detect"), save({}, ".npz"))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"pretrained weights .*none\.npz do not exist"):
        read_tensors(tmp_path / "none.npz")


def test_another_suffix(tmp_path):
    with pytest.raises(ValueError, match=r"a\.pt: expected a file ending in \.npz or \.safetensors"):
        read_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(ValueError, match=r"pretrained weights .* cannot be read: "):
        read_tensors(path)


def test_pickled_objects_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="cannot be read: Object arrays cannot be loaded"):
        read_tensors(path)
