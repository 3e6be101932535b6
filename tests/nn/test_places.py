"""Layers of a head at a few places: the values of the layers that run everywhere."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the customary name
from torch import nn
from torch.testing import assert_close
from ultralytics.nn.modules.conv import Conv, DWConv
from ultralytics.utils.torch_utils import fuse_conv_and_bn

from yolo_uncert.nn import places
from yolo_uncert.nn.places import local, look

HEIGHT, WIDTH = 9, 11
CORNERS = [0, WIDTH - 1, (HEIGHT - 1) * WIDTH, HEIGHT * WIDTH - 1]
NEIGHBOURS, ALONE = [36, 37, 47], [50]


def fused(conv: Conv) -> Conv:
    """Fold the batch norm into the convolution, as Ultralytics does for prediction."""
    conv = copy.deepcopy(conv)
    conv.conv = fuse_conv_and_bn(conv.conv, conv.bn)
    del conv.bn
    conv.forward = conv.forward_fuse
    return conv


@pytest.fixture(params=["fused", "not fused"])
def level(request):
    """A stock box branch with statistics as if it had been trained."""
    layers = [Conv(5, 6, 3), Conv(6, 7, 3)]
    for layer in layers:
        layer.bn.running_mean.normal_(0, 0.3)
        layer.bn.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(layer.bn.bias)  # outside of the map there is 0, not what the layer makes of 0
        layer.eval()
    return nn.Sequential(*(map(fused, layers) if request.param == "fused" else layers), nn.Conv2d(7, 4, 1)).eval()


@pytest.fixture(params=["alone", "everywhere"])
def way(request, monkeypatch):
    """Let no number of places be too many, or one."""
    monkeypatch.setattr(places, "WORTH", 0 if request.param == "alone" else 10**12)
    monkeypatch.setattr(places, "DEAR", 0)
    return request.param


@torch.no_grad()
@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("where", [CORNERS, NEIGHBOURS, ALONE, list(range(HEIGHT * WIDTH)), [5, 4, 90, 4]])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_values_are_those_of_the_layers_everywhere(level, way, where, around, memory):
    x, where = torch.randn(1, 5, HEIGHT, WIDTH).contiguous(memory_format=memory), torch.tensor(where)
    before, ran = x.clone(), []
    level[0].conv.register_forward_hook(lambda *_: ran.append(True))
    looked = look(level, x, where, around=around)
    assert bool(ran) == (way == "everywhere")
    assert torch.equal(x, before)
    hidden = level[:2](x)
    assert_close(looked.hidden, hidden.flatten(2)[:, :, None, where])
    assert_close(looked.out, level(x).flatten(2)[:, :, None, where])
    if around:
        assert_close(looked.around, F.unfold(hidden, 3, padding=1)[:, :, None, where])
    else:
        assert looked.around is None


@pytest.mark.parametrize("around", [False, True])
def test_without_a_place_nothing_is_run(level, around):
    for layer in level:
        layer.register_forward_hook(lambda *_: pytest.fail("a layer was run"))
    looked = look(level, torch.randn(1, 5, HEIGHT, WIDTH), torch.tensor([], dtype=torch.long), around=around)
    assert (looked.hidden.shape, looked.out.shape) == ((1, 7, 1, 1), (1, 4, 1, 1))
    assert not looked.hidden.any()
    assert not looked.out.any()
    assert looked.around.shape == (1, 63, 1, 1) if around else looked.around is None


def test_few_places_of_a_large_map_are_run_alone():
    layers = [Conv(64, 64, 3), Conv(64, 64, 3)]  # 73,728 weights: finding places takes the time of some 270 places
    middle = torch.tensor([40 * 82 + 41])
    alone, around = (places._needed(layers, middle, (80, 80), wide) for wide in (False, True))
    assert [len(x) for x in alone] == [9, 1], "what the first layer has to run at, and the second"
    assert [len(x) for x in around] == [25, 9]
    assert places._needed(layers, torch.arange(83, 83 + 80 * 80 // places.DEAR), (80, 80), False) == []
    assert places._needed(layers, middle, (8, 8), False) == [], "finding the place takes longer than such a map"


def test_more_threads_ask_for_more_to_spare(monkeypatch):
    layers, place = [Conv(64, 64, 3), Conv(64, 64, 3)], torch.tensor([20 * 42 + 21])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert places._needed(layers, place, (40, 40), True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert places._needed(layers, place, (40, 40), True) == []


@pytest.mark.parametrize(
    ("layers", "known"),
    [
        ([Conv(4, 6, 3), Conv(6, 6, 3), nn.Conv2d(6, 3, 1)], True),
        ([Conv(4, 6, 3), nn.Conv2d(6, 3, 1)], True),
        ([DWConv(4, 4, 3), nn.Conv2d(4, 3, 1)], False),
        ([Conv(4, 6, 1), nn.Conv2d(6, 3, 1)], False),
        ([Conv(4, 6, 3, s=2), nn.Conv2d(6, 3, 1)], False),
        ([Conv(4, 6, 3, d=2), nn.Conv2d(6, 3, 1)], False),
        ([Conv(4, 6, 3, g=2), nn.Conv2d(6, 3, 1)], False),
        ([Conv(4, 6, 3), nn.Conv2d(6, 3, 3, padding=1)], False),
        ([Conv(4, 6, 3), nn.Conv2d(6, 3, 1, groups=3)], False),
        ([nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 3, 1)], False),
        ([Conv(4, 6, 3), nn.Identity()], False),
        ([nn.Conv2d(4, 3, 1)], False),
    ],
)
def test_layers_of_another_kind_are_not_run_at_places(layers, known):
    assert local(nn.Sequential(*layers)) == known
