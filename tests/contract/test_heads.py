"""Stock heads: constructor, branches, order of channels, decoding, end-to-end selection, fusing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.conv import Conv
from ultralytics.nn.modules.head import OBB, OBB26, Detect

pytestmark = pytest.mark.seam("nn/branched.py", "nn/heads.py")

NC, CH, STRIDES = 3, (16, 32, 64), (8, 16, 32)
SIZES = (8, 4, 2)  # maps of a 64 px image; 64 + 16 + 4 = 84 anchors
ANCHORS = 84
HEADS = {"detect": Detect, "obb": OBB, "obb26": OBB26}


def build(kind="detect", reg_max=16, end2end=False, cls=None):
    """A head made from positional arguments, as ours hand them on."""
    args = (NC, reg_max, end2end, CH) if kind == "detect" else (NC, 1, reg_max, end2end, CH)
    head = (cls or HEADS[kind])(*args)
    head.stride = torch.tensor(STRIDES, dtype=torch.float32)
    head.bias_init()
    return head.eval()


def features():
    return [torch.randn(1, c, s, s) for c, s in zip(CH, SIZES, strict=True)]


@pytest.fixture(params=HEADS)
def kind(request):
    return request.param


@pytest.mark.parametrize("end2end", [False, True])
def test_constructor_takes_its_arguments_in_our_order(kind, end2end):
    head = build(kind, 8, end2end)
    assert (head.nc, head.reg_max) == (NC, 8)
    assert [m[-1].out_channels for m in head.cv2] == [32] * 3  # 4 sides of 8 bins
    assert (getattr(head, "one2one_cv2", None) is not None) == end2end
    assert hasattr(head, "cv4") == (kind != "detect")


def test_branches_end_in_a_convolution_on_hidden_features(kind):
    head = build(kind)
    for branch in [head.cv2, *([head.cv4] if kind != "detect" else [])]:
        assert all(isinstance(m[-1], nn.Conv2d) and len(list(m)) > 1 for m in branch)


@pytest.mark.parametrize("route", ["one2many", "one2one"])
def test_routes_are_dicts_of_keyword_arguments(kind, route):
    prefix = "one2one_" if route == "one2one" else ""
    head = build(kind, end2end=True)
    want = {"box_head": "cv2", "cls_head": "cv3"} | ({"angle_head": "cv4"} if kind != "detect" else {})
    assert getattr(head, route) == {key: getattr(head, prefix + name) for key, name in want.items()}


@pytest.mark.parametrize("end2end", [False, True])
def test_forward_hands_further_entries_of_a_route_to_forward_head(end2end):
    class Head(Detect):
        one2many = property(lambda self: {**super().one2many, "cv_x": "many"})
        one2one = property(lambda self: {**super().one2one, "cv_x": "one"})

        def forward_head(self, x, box_head=None, cls_head=None, cv_x=None):
            return {**super().forward_head(x, box_head=box_head, cls_head=cls_head), "x": cv_x}

    preds = build(cls=Head, end2end=end2end)(features())[1]
    found = {"one2many": preds["one2many"]["x"], "one2one": preds["one2one"]["x"]} if end2end else preds["x"]
    assert found == ({"one2many": "many", "one2one": "one"} if end2end else "many")


def test_forward_head_calls_one_module_per_level_and_flattens(kind):
    head, x = build(kind), features()
    heads = {"box_head": 64, "cls_head": NC} | ({"angle_head": 1} if kind != "detect" else {})
    given = {name: [torch.randn(1, c, s, s) for s in SIZES] for name, c in heads.items()}
    # Outputs that are already computed, in place of modules: any list of callables has to do.
    preds = head.forward_head(x, **{name: [lambda _, y=y: y for y in ys] for name, ys in given.items()})
    flat = {name: torch.cat([y.flatten(2) for y in ys], 2) for name, ys in given.items()}
    assert preds["boxes"].equal(flat["box_head"])
    assert preds["scores"].equal(flat["cls_head"])
    assert all(a is b for a, b in zip(preds["feats"], x, strict=True))
    if kind == "obb":
        assert preds["angle"].allclose((flat["angle_head"].sigmoid() - 0.25) * math.pi)
    if kind == "obb26":
        assert preds["angle"].equal(flat["angle_head"])


def test_output_is_box_scores_angle_and_raw_predictions(kind):
    y, preds = build(kind)(features())
    assert y.shape == (1, 4 + NC + (kind != "detect"), ANCHORS)
    assert y[:, 4 : 4 + NC].equal(preds["scores"].sigmoid())
    if kind != "detect":
        assert y[:, -1:].equal(preds["angle"])


@pytest.mark.seam("nn/branched.py", "nn/heads.py", "nn/branches/base.py", "nn/branches/gaussian.py")
def test_inference_leaves_anchors_and_strides_and_decodes_to_pixels(kind):
    head = build(kind)
    y, preds = head(features())
    assert head.anchors.shape == (2, ANCHORS)
    assert head.strides.shape == (1, ANCHORS)
    assert head.anchors[:, 0].tolist() == [0.5, 0.5]
    assert head.strides[0, [0, 64, 80]].tolist() == list(STRIDES)
    # All bins equally likely: every distance is the mean of 0..15, so the box is 15 strides wide about the anchor.
    flat = {**preds, "boxes": torch.zeros(1, 64, ANCHORS)}
    box = head._inference(flat)[:, :4]
    assert box[:, :2].allclose((head.anchors * head.strides)[None])
    assert box[:, 2:].allclose((15 * head.strides).expand(1, 2, -1), rtol=1e-4)
    assert y.shape[2] == box.shape[2]


def test_inference_asks_one_method_for_the_boxes_and_takes_any_number_of_anchors(kind):
    head, some = build(kind), torch.rand(1, 4, 5)
    head._get_decode_boxes = lambda x: some
    preds = {"boxes": torch.zeros(1, 64, 5), "scores": torch.zeros(1, NC, 5), "angle": torch.ones(1, 1, 5), "feats": []}
    y = head._inference(preds)
    assert y[:, :4].equal(some)
    assert y[:, 4 : 4 + NC].equal(torch.full((1, NC, 5), 0.5))
    assert y.shape[1] == 4 + NC + (kind != "detect")


@pytest.mark.seam("nn/places.py")
def test_box_and_angle_branches_are_plain_convolutions_with_their_activation(kind):
    head = build(kind)
    for level in [*head.cv2, *(head.cv4 if kind != "detect" else [])]:
        *layers, last = level
        assert all(type(layer) is Conv and type(layer.conv) is nn.Conv2d for layer in layers)
        assert all((layer.conv.kernel_size, layer.conv.stride) == ((3, 3), (1, 1)) for layer in layers)
        assert type(last) is nn.Conv2d
        x = torch.randn(1, layers[0].conv.in_channels, 3, 3)
        assert layers[0](x).equal(layers[0].act(layers[0].bn(layers[0].conv(x)))), "nothing else happens in the layer"


@pytest.mark.seam("nn/branches/dfl.py", "nn/branched.py", "nn/heads.py")
def test_dfl_layer_decodes_logits_to_four_distances():
    layer, logits = DFL(16), torch.randn(2, 64, 5)
    mean = (logits.view(2, 4, 16, 5).softmax(2) * torch.arange(16.0).view(16, 1)).sum(2)
    assert layer.c1 == 16
    assert layer(logits).allclose(mean, atol=1e-5)
    head = build()
    head.dfl = type("One", (nn.Module,), {"forward": lambda self, x: torch.ones(len(x), 4, x.shape[2])})()
    assert head(features())[0][:, 2:4].allclose(2 * head.strides.expand(1, 2, -1)), "decoding goes through head.dfl"


@pytest.mark.seam("nn/branched.py", "nn/heads.py", "engine/postprocess.py", "engine/predict.py", "engine/val.py")
def test_end2end_is_switched_on_the_head_and_its_rows_keep_further_channels(kind):
    head = build(kind, end2end=True)
    head.end2end = False
    assert head(features())[0].shape == (1, 4 + NC + (kind != "detect"), ANCHORS)
    head.end2end, head.max_det = True, 20
    assert head(features())[0].shape == (1, 20, 6 + (kind != "detect"))
    scores = torch.rand(1, ANCHORS, NC)
    number = torch.arange(ANCHORS, dtype=torch.float32).view(1, -1, 1)
    rows = head.postprocess(torch.cat((number.expand(-1, -1, 4), scores, 10 * number, 100 * number), 2))
    assert rows.shape == (1, 20, 8)
    assert rows[..., 6].equal(10 * rows[..., 0])
    assert rows[..., 7].equal(100 * rows[..., 0])
    best, cls = scores[0].flatten().max(0).values, int(scores[0].flatten().argmax()) % NC
    assert rows[0, 0, 4:6].tolist() == [best.item(), cls]


@pytest.mark.parametrize("end2end", [False, True])
def test_fuse_drops_the_unused_twin_of_every_one2one_module(end2end):
    head = build(end2end=True)
    head.end2end = end2end
    head.cv_x, head.one2one_cv_x = nn.ModuleList(), nn.ModuleList()
    head.fuse()
    gone, kept = ("", "one2one_") if end2end else ("one2one_", "")
    for name in ("cv2", "cv3", "cv_x"):
        assert getattr(head, gone + name) is None, name
        assert getattr(head, kept + name) is not None, name
    head(features())


def test_a_fused_away_route_gives_an_empty_dict():
    head = build(end2end=True)
    head.end2end = True
    head.fuse()
    assert head.one2many == {"box_head": None, "cls_head": None}
    assert head.forward_head(features(), **head.one2many) == {}
