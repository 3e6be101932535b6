"""Border branch: where it looks, what it reads there, and how boxes move by it."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import YAML
from ultralytics.utils.metrics import bbox_iou, probiou

from yolo_uncert import YOLO
from yolo_uncert.functional.boxes import rbox_to_sides, sides_to_rbox
from yolo_uncert.nn.branches import build_branches
from yolo_uncert.nn.branches.base import Borders, Features, HeadSpec
from yolo_uncert.nn.branches.border import FARTHEST, LARGE, MOST_TURN, SHARE
from yolo_uncert.nn.branches.sides import (
    POINTS,
    at_points,
    border_points,
)
from yolo_uncert.options import OptionError

SIZE = (64.0, 32.0)
SIDES = torch.tensor([[[4.0], [6], [8], [2]]])
ANCHOR = torch.tensor([[20.0], [16]])
BORDER = {"gaussian": {}, "border": {}}
BASES = pytest.mark.parametrize("base", ["yolo11n.yaml", "yolov5n.yaml", "yolo26n.yaml"])
TASKS = pytest.mark.parametrize("task", ["detect", "obb"])
FINER = pytest.mark.parametrize("finer", [False, True])


def full(task):
    """Options of a border branch that has all there is for the task."""
    return {"finer": True, "finer_channels": 2, "beside": 0.15, **({"turn": True} if task == "obb" else {})}


def movers(modules):
    """The layers that move and turn boxes."""
    return [layer for layer in modules[3:] if isinstance(layer, nn.Conv1d)]


EXTENT = pytest.mark.parametrize("options", [lambda _: {}, full], ids=["plain", "full"])


@pytest.fixture
def reader(make_branch):
    """Branch and modules that pass on what is read: one channel, one hidden channel for each point."""
    branch = make_branch("border", channels=1, hidden=POINTS, candidates=2)
    value, centres = nn.Identity(), nn.ModuleList([nn.Conv2d(8, 4 * POINTS, 1)])
    nn.init.zeros_(centres[0].weight)
    nn.init.zeros_(centres[0].bias)
    side = nn.Conv1d(4 * POINTS, 4 * POINTS, 1, groups=4, bias=False)
    side.weight.data = torch.eye(POINTS).repeat(4, 1)[..., None]
    return branch, nn.ModuleList([value, centres, side])


def look(reader, finest, places, scores=None):
    branch, modules = reader
    features = Features([torch.zeros(len(places.sides), 8, 1, places.sides.shape[2])], [], [])
    return branch.look(modules, features, [finest], places, scores if scores is None else branch.choose(scores))


def test_each_side_reads_its_own_channels_at_its_points(reader, places_of):
    # Cell i of a map of stride 8 has its centre at 8 i + 4; the map holds the place itself, 100 more for each side.
    x, y = (torch.arange(8) * 8.0 + 4).expand(4, 8), (torch.arange(4) * 8.0 + 4)[:, None].expand(4, 8)
    finest = torch.stack((x, y + 100, x + 200, x + 300))[None]
    borders = look(reader, finest, places_of(SIDES, ANCHOR))
    expected = [16.0, 16, 16, 110, 110, 110, 228, 228, 228, 318, 322, 326]
    assert_close(borders.seen[0, :, 0], nn.functional.silu(torch.tensor(expected)))
    assert borders.size[0, :, 0].tolist() == [3.0, 2, 3, 2], "12 and 8 px in grid units of 4"


def test_outside_of_the_image_the_edge_is_read(reader, places_of):
    finest = torch.rand(1, 4, 5, 5)
    # In a map of 5 x 5 the last centres are at 0.9 of the image.
    outside, last = (places_of(torch.zeros(1, 4, 1), torch.tensor(SIZE)[:, None] * k) for k in (1.4, 0.9))
    assert_close(look(reader, finest, outside).seen, look(reader, finest, last).seen)


@TASKS
def test_the_best_candidates_are_looked_at_and_the_others_stay(reader, task, places_of):
    finest, angle = torch.rand(2, 4, 5, 5), torch.rand(2, 1, 5) if task == "obb" else None
    places = places_of(9 * torch.rand(2, 4, 5), 30 * torch.rand(2, 5), angle)
    scores = torch.zeros(2, 3, 5)
    scores[0, 0], scores[0, 1, 1], scores[1, 2] = torch.tensor([0.1, 0.2, 0.9, 0, 0.3]), 0.8, torch.arange(5.0)
    chosen, whole = look(reader, finest, places, scores), look(reader, finest, places)
    assert (chosen.index.tolist(), whole.index) == ([[2, 1], [4, 3]], None)
    for part, everything in ((chosen.seen, whole.seen), (chosen.size, whole.size)):
        for image, index in enumerate(chosen.index):
            assert_close(part[image], everything[image][:, index])
    spread = chosen.among_all(chosen.seen)
    assert_close(spread[0, :, [1, 2]], whole.seen[0, :, [1, 2]])
    assert not spread[0, :, [0, 3, 4]].any()
    assert torch.equal(whole.among_all(whole.seen), whole.seen)


def test_of_large_images_more_is_looked_at(reader, places_of):
    anchors = 3 * LARGE
    scores, places = torch.rand(1, 2, anchors), places_of(torch.rand(1, 4, anchors), torch.rand(2, anchors))
    index = look(reader, torch.rand(1, 4, 5, 5), places, scores).index
    assert index.shape == (1, 3), "2 are asked for"


@FINER
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_gradient_reaches_the_shared_maps(make_branch, share, finer, places_of):
    torch.manual_seed(0)
    maps, hidden = [torch.rand(1, 16, 4, 4), torch.rand(1, 12, 8, 8)][: 1 + finer], torch.rand(1, 8, 1, 1)
    whole, part = (make_branch("border", channels=1, hidden=1, grad_finest=s, finer=finer) for s in (1.0, share))
    modules, seen, gradients = whole.build(), [], []
    for branch in (whole, part):
        leaves = [x.clone().requires_grad_() for x in (*maps, hidden)]
        seen.append(branch.look(modules, Features([leaves[-1]], [], []), leaves[:-1], places_of(SIDES, ANCHOR)).seen)
        gradients.append(torch.autograd.grad(seen[-1].sum(), leaves))
    assert torch.equal(*seen)
    (*everything, all_hidden), (*some, same_hidden) = gradients
    for part, whole in zip(some, everything, strict=True):
        assert whole.abs().sum() > 0
        assert_close(part, share * whole)
    assert torch.equal(same_hidden, all_hidden)


@EXTENT
@TASKS
def test_gradient_of_what_is_seen(make_branch, task, options, places_of):
    torch.manual_seed(0)
    branch = make_branch("border", task, channels=1, hidden=1, **options(task))
    modules = branch.build().double().eval()
    angle = torch.rand(1, 1, 4).double() if task == "obb" else None
    places = places_of(9 * torch.rand(1, 4, 4).double(), 30 * torch.rand(2, 4).double(), angle)
    shapes = ((1, 8, 2, 2), (1, 16, 4, 4), (1, 12, 8, 8))[: 2 + branch.options.finer]

    def growth(hidden, *maps):
        features = Features([hidden], [], [])
        return branch.forward(modules, replace(features, borders=branch.look(modules, features, [*maps], places)))

    for layer in movers(modules):
        layer.weight.data.normal_()
    assert torch.autograd.gradcheck(growth, [torch.rand(shape).double().requires_grad_() for shape in shapes])


@TASKS
def test_boxes_move_by_what_is_predicted(make_branch, make_context, task):
    branch = make_branch("border", task)
    angle = 0.6 * (task == "obb")
    box = sides_to_rbox(torch.zeros(2), torch.tensor([4.0, 6, 8, 2]), torch.tensor(angle))
    box = box if task == "obb" else torch.tensor([-4.0, -6, 8, 2])
    pred, growth = box[None].clone().requires_grad_(), torch.tensor([[1.0, -2, 0.5, 3]], requires_grad=True)
    context = make_context(pred, box[None] + 1, border=growth)
    moved = branch.move(context.assignment, context.preds)
    expected = torch.tensor([-5.0, -4, 8.5, 5])
    if task == "obb":
        expected = sides_to_rbox(torch.zeros(2), torch.tensor([5.0, 4, 8.5, 5]), torch.tensor(angle))
    assert_close(moved.pred_boxes[0, 0], expected)
    assert moved.stock_boxes is context.assignment.pred_boxes
    moved.pred_boxes.sum().backward()
    assert pred.grad is None, "the detector's own boxes are trained by the stock loss alone"
    assert growth.grad.abs().sum() > 0
    still = make_branch("border", task, refine=False)
    assert still.move(context.assignment, context.preds) is context.assignment
    assert (still.loss_item, branch.loss_item) == ("", "border_loss")


def test_boxes_turn_about_their_anchor(make_branch, make_context):
    branch, zero = make_branch("border", "obb", turn=True), torch.zeros(2)
    sides, angle = torch.tensor([4.0, 6, 8, 2]), torch.tensor(0.6)
    pred = sides_to_rbox(zero, sides, angle)[None]
    growth = torch.tensor([[1.0, -2, 0.5, 3, -0.4]], requires_grad=True)
    context = make_context(pred, pred + 1, border=growth)
    moved = branch.move(context.assignment, context.preds).pred_boxes[0, 0]
    assert_close(moved, sides_to_rbox(zero, torch.tensor([5.0, 4, 8.5, 5]), torch.tensor(0.2)))
    (1 - probiou(moved[None], context.assignment.target_boxes[0])).sum().backward()
    assert growth.grad[0].ne(0).all()


@TASKS
def test_a_box_loss_that_stands_in_for_the_stock_one_trains_the_detectors_own_boxes(make_branch, make_context, task):
    box = torch.tensor([[5.0, 6, 12, 8, 0.3]]) if task == "obb" else torch.tensor([[1.0, 2, 9, 12]])
    pred, growth = box.clone().requires_grad_(), torch.full((1, 4), 0.5, requires_grad=True)
    context = make_context(pred, box * 1.1, border=growth)
    moved = replace(context, assignment=make_branch("border", task).move(context.assignment, context.preds))
    kld = make_branch("kld", task)
    assert torch.equal(kld.loss(moved), kld.loss(context))
    assert not torch.equal(moved.pred_boxes, context.pred_boxes)
    kld.loss(moved).backward()
    assert pred.grad.abs().sum() > 0
    assert growth.grad is None


@pytest.mark.parametrize("beside", [0.0, 0.25])
@pytest.mark.parametrize("reduced", [0, 3])
def test_a_finer_map_is_read_behind_the_finest(make_branch, reduced, beside, places_of):
    branch = make_branch("border", channels=2, hidden=1, finer=True, finer_channels=reduced, beside=beside)
    modules, places = branch.build().eval(), places_of(SIDES, ANCHOR)
    features, maps = Features([torch.rand(1, 8, 1, 1)], [], []), [torch.rand(1, 16, 4, 4), torch.rand(1, 12, 8, 8)]
    points = border_points(places, beside)
    own = modules[0](maps[0]).unflatten(1, (4, 2))
    finer = modules[-1](maps[1]) if reduced else maps[1]
    assert finer.shape == (1, reduced or 12, 8, 8)
    read = torch.cat((at_points(own, points), at_points(finer[:, None], points)), 2).flatten(1, 2)
    centre = modules[1][0](features.hidden[0]).flatten(2)
    assert_close(branch.look(modules, features, maps, places).seen, nn.functional.silu(modules[2](read) + centre))


def test_a_finer_map_that_no_head_is_given_is_refused():
    with pytest.raises(OptionError, match=r"u.border: finer: true needs a backbone layer with twice the resolution"):
        build_branches({**BORDER, "border": {"finer": True}}, HeadSpec("detect", 3, 16, (8,), finest=16), "u")


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("detect", {"turn": True}, r"u.border: turn: true is for oriented boxes \(task: obb\)"),
        ("obb", {"turn": True, "refine": False}, r"u.border: turn: true needs refine: true"),
        ("obb", {"finer_channels": 16}, r"u.border: finer_channels needs finer: true"),
        ("obb", {"beside": 0.6}, r"u.border: beside must be at most 0.5, not 0.6"),
    ],
)
def test_what_cannot_be_is_refused(task, options, message):
    with pytest.raises(OptionError, match=message):
        build_branches({**BORDER, "border": options}, HeadSpec(task, 3, 16, (8,), (4,), 16), "u")


def test_what_nobody_reads_is_refused(build):
    with pytest.raises(OptionError, match=r"uncertainty.border: refine: false leaves the boxes, and there"):
        build("yolov8n.yaml", "detect", {"iou_aware": {}, "border": {"refine": False}})
    build("yolov8n.yaml", "detect", {"iou_aware": {"reads": "border"}, "border": {"refine": False}})


@TASKS
def test_the_loss_is_that_of_the_stock_boxes(make_branch, make_context, task):
    """Of oriented boxes without the floor under small ones, see the branch."""
    pred = torch.tensor([[1.0, 2, 9, 12], [0.0, 0, 4, 4]])
    target = torch.tensor([[2.0, 2, 10, 10], [0.0, 1, 5, 4]])
    if task == "obb":
        angle = torch.tensor([[0.2], [1.0]])
        pred, target = (torch.cat((b[:, :2] + 3, b[:, 2:] + 2, angle), 1) for b in (pred, target))
    overlap = probiou(pred, target) if task == "obb" else bbox_iou(pred, target, xywh=False, CIoU=True)
    found = make_branch("border", task, gain=0.5).loss(make_context(pred, target))
    assert_close(found, (1 - overlap).mean() * 7.5 * 0.5)


def test_predictions_are_parts_of_the_box(make_branch):
    branch = make_branch("border", hidden=2)
    modules = branch.build()
    modules[3].weight.data.zero_()
    modules[3].bias.data = torch.tensor([1.0, -9, -1, 9])
    borders = Borders(torch.randn(1, branch.channels, 1), torch.tensor([12.0, 8, 12, 8])[None, :, None])
    growth = branch.forward(modules, Features([], [], borders=borders))[0, :, 0]
    assert_close(growth, torch.tensor([SHARE * 12, -FARTHEST * 8, -SHARE * 12, FARTHEST * 8]))


@EXTENT
@TASKS
def test_boxes_start_where_the_detector_puts_them(build, make_batch, task, options):
    model = build("yolov8n.yaml", task, {**BORDER, "border": options(task)}).eval()
    with torch.no_grad():
        _, raw = model(make_batch(task)["img"])
    assert 0 < raw["border"].abs().max() < 0.02, "of a grid unit, or radians"


@pytest.mark.parametrize(("raw", "expected"), [(-0.5, -0.5 * SHARE), (9.0, MOST_TURN)])
def test_turns_are_in_radians_and_bounded(make_branch, raw, expected):
    branch = make_branch("border", "obb", hidden=2, turn=True)
    modules = branch.build()
    for layer, bias in zip(movers(modules), (0.0, raw), strict=True):
        layer.weight.data.zero_()
        layer.bias.data.fill_(bias)
    borders = Borders(torch.randn(1, branch.channels, 3), torch.ones(1, 4, 3))
    growth = branch.forward(modules, Features([], [], borders=borders))
    assert_close(growth, torch.tensor([0.0, 0, 0, 0, expected])[None, :, None].expand(1, 5, 3))


@torch.no_grad()
@pytest.mark.parametrize("base", ["yolo11n.yaml", "yolo26n.yaml"])
def test_decoded_boxes_are_turned(build, perturb, base):
    model = perturb(build(base, "obb", {**BORDER, "border": {"turn": True}})).eval()
    model.end2end = False
    head, image = model.model[-1], torch.rand(1, 3, 64, 96)
    for modules in (head.cv_border, getattr(head, "one2one_cv_border", head.cv_border)):
        for layer in movers(modules):
            layer.weight.zero_()
    before = model(image)[0].mT[0]
    head.cv_border[4].bias.fill_(0.3 / SHARE)
    after = model(image)[0].mT[0]
    assert_close(after[:, -1], before[:, -1] + 0.3)
    assert_close(after[:, 4:7], before[:, 4:7])
    anchors = (head.anchors * head.strides).T
    sides = [rbox_to_sides(anchors, torch.cat((y[:, :4], y[:, -1:]), 1)) for y in (before, after)]
    assert_close(*sides, atol=1e-3, rtol=1e-4)
    fields = [y[:, 7:14] for y in (before, after)]  # sigma and the offset of the centre are in the box's own frame
    assert_close(*fields, atol=1e-3, rtol=1e-4)


@BASES
@TASKS
def test_without_refinement_only_sigma_knows_of_the_borders(build, perturb, base, task):
    plain = perturb(build(base, task, {"gaussian": {}}))
    model = build(base, task, {"gaussian": {}, "border": {"refine": False}}, seed=1).eval()
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all("cv_border." in name or "cv_gaussian.3." in name for name in missing)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        (before, before_raw), (_, after_raw) = plain(image), model(image)
        for mine, theirs in zip(_heads(after_raw), _heads(before_raw), strict=True):
            for name in {"boxes", "scores", "angle"} & theirs.keys():
                assert torch.equal(mine[name], theirs[name])
            assert not torch.equal(mine["gaussian"], theirs["gaussian"])
        for name, parameter in model.named_parameters():
            if "cv_gaussian.3." in name:
                parameter.zero_()
        assert torch.equal(before, model(image)[0]), "a reader that says nothing changes nothing"


def _heads(raw):
    return (raw["one2many"], raw["one2one"]) if "one2many" in raw else (raw,)


@EXTENT
@TASKS
def test_images_of_other_sizes_are_looked_at_in_their_own_places(build, perturb, task, options):
    model = perturb(build("yolov8n.yaml", task, {**BORDER, "border": options(task)})).eval()
    images = [torch.rand(shape) for shape in ((1, 3, 64, 96), (1, 3, 96, 64), (2, 3, 64, 96))]
    with torch.no_grad():
        nn.init.normal_(model.model[-1].cv_border[3].weight, std=0.2)
        found = [model(image)[0] for image in (*images, *images)]  # each after one of another size
        for image, *both in zip(images, found, found[3:], strict=False):
            fresh = copy.deepcopy(model)
            fresh.model[-1].shape = None
            for out in both:
                assert torch.equal(out, fresh(image)[0])


@EXTENT
@BASES
@TASKS
def test_a_training_step_reaches_all_that_reads_the_borders(build, make_batch, base, task, options):
    model = build(base, task, {**BORDER, "iou_aware": {}, "border": options(task)}).train()
    model.loss(make_batch(task))[0].sum().backward()
    head = model.model[-1]
    prefixes = [prefix for prefix in ("", "one2one_") if hasattr(head, f"{prefix}cv_border")]
    assert len(prefixes) == 1 + ("26" in base)
    for prefix in prefixes:
        modules = getattr(head, f"{prefix}cv_border")
        reads = getattr(head, f"{prefix}cv_gaussian")[-1]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (*modules.parameters(), *reads.parameters()))
        for layer in (*modules, reads):  # a level without a positive has none
            assert sum(p.grad.abs().sum() for p in layer.parameters()) > 0


@TASKS
@pytest.mark.parametrize(
    ("form", "dynamic", "everything"),
    [("onnx", False, False), ("onnx", True, True), ("torchscript", False, True)],
)
def test_exported_files_look_at_the_same_places(tmp_path, perturb, task, form, dynamic, everything):
    yaml = tmp_path / "model.yaml"
    section = {"gaussian": {}, "border": {"candidates": 20, **(full(task) if everything else {})}}
    YAML.save(yaml, {"base": "yolov8n.yaml", "task": task, "nc": 3, "uncertainty": section})
    model = YOLO(str(yaml))
    perturb(model.model)
    head = model.model.model[-1]
    for layer in (*movers(head.cv_border), head.cv_gaussian[-1]):
        nn.init.normal_(layer.weight, std=0.2)
    model.save(tmp_path / "model.pt")
    options = {"imgsz": 64, "dynamic": dynamic, "device": "cpu", "verbose": False}
    if dynamic and task == "detect":  # onnxslim takes five times as long as the export; the case of obb has it
        options["simplify"] = False
    file = YOLO(tmp_path / "model.pt").export(format=form, **options)
    backend = AutoBackend(file, device=torch.device("cpu"))
    model.model.eval()
    head.dynamic = dynamic  # a dynamic file looks at all anchors
    for shape in ((1, 3, 64, 64), (2, 3, 96, 64), (1, 3, 64, 128))[: 3 if dynamic else 1]:
        image = torch.rand(shape)
        with torch.no_grad():
            expected = model.model(image)[0].numpy()
        found = np.asarray(backend(image))
        assert found.shape == expected.shape
        # Pixels of boxes and, oriented, the offsets of their centres; three scores; standard deviations and angles.
        pixels = [0, 1, 2, 3, *((12, 13) if task == "obb" else ())]
        allowed = np.full((found.shape[1], 1), 1e-3)
        allowed[pixels], allowed[4:7] = 0.05, 1e-4
        assert (np.abs(found - expected) <= allowed + 1e-3 * np.abs(expected)).all()
