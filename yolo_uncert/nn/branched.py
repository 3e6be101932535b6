"""What a detection head does that carries uncertainty branches beside its box branch, whatever its boxes are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from ultralytics.nn.modules.block import DFL
from ultralytics.nn.modules.head import Detect
from ultralytics.utils.tal import make_anchors

from yolo_uncert.functional.dtypes import at_least_float32
from yolo_uncert.losses.context import LATER
from yolo_uncert.nn.branches import build_branches, check_detached
from yolo_uncert.nn.branches.base import Borders, Branch, Decoded, Features, HeadSpec, Places, apart
from yolo_uncert.nn.branches.border import BorderBranch, among_first
from yolo_uncert.nn.branches.dfl import DFLBranch, MomentsDFL
from yolo_uncert.nn.parts import CROWD, Part, by_image, can_be_local, chosen, everywhere
from yolo_uncert.options import OptionError
from yolo_uncert.schema import Schema


class Branched(Detect):
    """Run uncertainty branches on the features of a stock head and put their fields behind the class scores.

    Attributes:
        branches: The branches in registry order.
        schema: Order of the extra channels.
        epoch: Current epoch while training (set by the trainer), for terms that warm up.
        least_score: Class score that an anchor has to exceed for its detection to count (set by the predictor while it
            predicts). On a CPU the head may leave others out: their output is 0.
        finer_layer: Index of the model's layer whose map is to be read besides those that the head is given, or None.
        finer: That map, Tensor[B, C, H, W], while the model runs (set by the model).
        detach: Whether the branches' gradient stops before the detector.
    """

    task = "detect"
    branches: list[Branch]
    schema: Schema
    epoch: int | None = None
    least_score: float = 0.0
    finer_layer: int | None = None
    finer: torch.Tensor | None = None
    detach: bool = False
    dfl: Any
    anchors: torch.Tensor
    strides: torch.Tensor
    shape: torch.Size | None

    @classmethod
    def from_stock(
        cls,
        stock: Detect,
        uncertainty: Mapping[str, Any],
        where: str = "uncertainty",
        finer: int = 0,
        *,
        detach: bool = False,
    ) -> Any:
        """Turn a stock head into one with branches, which shares the stock modules and thus its weights.

        Args:
            stock: An Ultralytics head of this class's base.
            uncertainty: Branch name to options.
            where: File and key for error messages.
            finer: Channels of the map of ``finer_layer``, 0 if there is none.
            detach: Stop the branches' gradient before the detector.
        """
        head = own_copy(cls, stock)
        head.detach = detach
        head.attach(uncertainty, where, finer)
        return head

    def attach(self, uncertainty: Mapping[str, Any], where: str = "uncertainty", finer: int = 0) -> None:
        """Build the branches on an initialised stock head; the arguments are those of :meth:`from_stock`.

        The global random state is left as it was, so that a model with branches starts from the same stock weights and
        sees the same batches as the stock model of the same seed.
        """
        if self.cv2 is None:
            raise OptionError(f"{where}: this end-to-end model was fused for inference; load its file again")
        angle = getattr(self, "cv4", None)
        spec = HeadSpec(
            self.task,
            self.nc,
            self.reg_max,
            tuple(m[-1].in_channels for m in self.cv2),
            tuple(m[-1].in_channels for m in angle) if angle is not None else (),
            self.cv2[0][0].conv.in_channels,
            finer,
        )
        self.branches = build_branches(uncertainty, spec, where)
        if self.detach:
            check_detached(self.branches, where)
        self.schema = Schema.of(self.task, self.nc, [b.field for b in self.branches if b.field])
        with torch.random.fork_rng(devices=[]):
            for branch in self.branches:
                if (modules := branch.build()) is not None:
                    setattr(self, f"cv_{branch.name}", modules.to(next(self.parameters())))
                    if getattr(self, "one2one_cv2", None) is not None:
                        # fuse() of the stock head drops X or one2one_X by this prefix.
                        setattr(self, f"one2one_cv_{branch.name}", copy.deepcopy(modules))
            self._share_softmax()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up the head of a checkpoint, those included whose dfl branch had a softmax of its own."""
        super().__setstate__(state)
        self._share_softmax()

    def _share_softmax(self) -> None:
        """Let the dfl branch, if there is one, decode the distances too; a border branch needs them decoded before."""
        if not isinstance(self.dfl, DFL) or isinstance(self.dfl, MomentsDFL):
            return
        branches = {branch.name: branch for branch in getattr(self, "branches", ())}
        if isinstance(dfl := branches.get("dfl"), DFLBranch):
            self.dfl = dfl.decoder(self.dfl)
        elif "border" in branches:
            self.dfl = MomentsDFL.like(self.dfl)

    @property
    def one2many(self) -> dict[str, Any]:
        """Return the one-to-many modules, those of the branches included."""
        return {**super().one2many, **self._branch_modules("")}

    @property
    def one2one(self) -> dict[str, Any]:
        """Return the one-to-one modules, those of the branches included."""
        return {**super().one2one, **self._branch_modules("one2one_")}

    def forward_head(
        self,
        x: list[torch.Tensor],
        box_head: nn.Module | None = None,
        cls_head: nn.Module | None = None,
        angle_head: nn.Module | None = None,
        **branch_modules: nn.ModuleList,
    ) -> dict[str, Any]:
        """Return the raw predictions of stock head and branches, or nothing if this head was fused away.

        With a border branch, which looks at the positives alone in training (compiled, at all), the branches wait for
        the label assignment: ``LATER`` is then a function of these predictions and Tensor[B, A] bool that returns
        theirs. Where only some anchors count, they are ``parts``: raw predictions by image, with the index of their
        anchors.
        """
        if box_head is None or cls_head is None:
            return {}
        heads, classes = (box_head, angle_head), cast(Any, cls_head)
        # The bound comes last, because a compiler takes note of every number that is looked at.
        if not (self.training or self.export) and can_be_local(x, heads) and self.least_score > 0:
            scores = [level(f) for level, f in zip(classes, x, strict=True)]
            if (places := chosen(scores, self.least_score, self._most(x))) is not None:
                around = any(branch.reads_around for branch in self.branches)
                parts = by_image(x, scores, heads, places, around=around)
                images = enumerate(parts)
                return {"parts": [part and self._complete(part, branch_modules, i) for i, part in images], "feats": x}
            classes = _computed(scores)
        return self._complete(everywhere(x, classes, heads), branch_modules)

    def _most(self, maps: list[torch.Tensor]) -> int:
        """Return how many anchors of an image the head runs at, unless at all: what a border branch would look at."""
        anchors = sum(level[0, 0].numel() for level in maps)
        looked = [branch.most(anchors) for branch in self.branches if isinstance(branch, BorderBranch)]
        return min(looked, default=anchors // CROWD)

    def _complete(self, part: Part, modules: Mapping[str, Any], image: int | None = None) -> dict[str, Any]:
        """Return the raw predictions of the branches beside those of the stock head, which has run.

        Args:
            part: What the stock head has computed.
            modules: Those of the branches.
            image: Index of the image in the batch that the part is of; None if it is of all.
        """
        features = part.features
        stock = {"box_head": _computed(features.boxes), "cls_head": _computed(part.classes)}
        if features.angles:
            stock["angle_head"] = _computed(features.angles)
        preds: dict[str, Any] = super().forward_head(part.maps, **stock)
        if part.index is not None:
            preds |= {"index": part.index, "grid": tuple(values[:, part.index] for values in self._grid(part.maps))}
        finer = [] if self.finer is None else [self.finer if image is None else self.finer[image : image + 1]]
        run = partial(self._run_branches, features, modules, finer)
        compiled = torch.compiler.is_compiling()
        if self.training and "cv_border" in modules and not compiled:
            return {**preds, LATER: run}
        return preds | run(preds)

    def _run_branches(
        self,
        features: Features,
        modules: Mapping[str, Any],
        finer: list[torch.Tensor],
        preds: dict[str, Any],
        positive: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the raw predictions of the branches.

        Args:
            features: What they read.
            modules: Theirs.
            finer: Tensor[B, C, H, W] finer map, if the border branch reads it.
            preds: Raw predictions of the stock head.
            positive: Tensor[B, A] bool, the anchors that the loss is about and a border branch looks at, once known.
        """
        alone = self.detach and self.training
        if alone:
            features = features.apart()
            preds = preds | {name: apart([preds[name]])[0] for name in ("boxes", "angle") if name in preds}
        own = {branch: modules.get(f"cv_{branch.name}") for branch in self.branches}
        # The detector's loss scale is found without branches: in half precision their gradient might not bear it.
        with torch.autocast(features.boxes[0].device.type, enabled=False) if alone else nullcontext():
            if "cv_border" in modules:
                borders = self._look_again(modules["cv_border"], features, preds, finer, positive)
                features = replace(features, borders=borders)
                if "grid" in preds and type(self.dfl) is MomentsDFL:  # a file that is traced knows no sizes of levels
                    features = replace(features, side_var=preds.get("side_var"))
            return {branch.name: branch.forward(m, features) for branch, m in own.items() if m is not None}

    def _inference(self, x: dict[str, Any]) -> torch.Tensor:
        """Return the decoded prediction Tensor[B, 4 + nc + extra (+ angle), A]."""
        if "parts" in x:
            return self._put_together(x["parts"], x["feats"])
        distances, side_var = x.get("distances", x["boxes"]), x.get("side_var")
        if side_var is None and isinstance(self.dfl, MomentsDFL):
            distances, side_var = self.dfl.moments(x["boxes"])
        if "border" in x:
            distances = distances + x["border"][:, :4]
            if x["border"].shape[1] > 4:
                x = {**x, "angle": x["angle"] + x["border"][:, 4:]}
        y = super()._inference({**x, "boxes": distances})
        anchors, strides = x.get("grid", (self.anchors, self.strides))
        decoded = Decoded(y[:, :4], anchors, strides, side_var)
        return self.schema.insert(y, [b.decode(x, decoded) for b in self.branches if b.field])

    def _put_together(self, parts: list[dict[str, Any] | None], maps: list[torch.Tensor]) -> torch.Tensor:
        """Return the decoded prediction of which the anchors that nobody looked at are 0."""
        channels = 4 + self.nc + self.schema.channels + (self.task == "obb")
        y = maps[0].new_zeros(len(parts), channels, sum(level[0, 0].numel() for level in maps))
        for image, part in zip(y, parts, strict=True):
            if part is not None:
                image.index_copy_(1, part["index"], self._inference(part)[0])
        return y

    def _get_decode_boxes(self, x: dict[str, Any]) -> torch.Tensor:
        """Return the decoded boxes of the anchors that the predictions are of."""
        if "grid" not in x:
            return super()._get_decode_boxes(x)
        anchors, strides = x["grid"]
        boxes: torch.Tensor = self.decode_bboxes(self.dfl(x["boxes"]), anchors[None], x.get("angle")) * strides
        return boxes

    def _grid(self, maps: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return anchors Tensor[2, A] and strides Tensor[1, A], kept from image to image as by the decoding."""
        passing = self.training or self.dynamic
        if not passing and self.shape == maps[0].shape:
            return self.anchors, self.strides
        if self.training:  # anchors have the type of the maps, and bfloat16 has no half cell beyond the 128th
            maps = [level[:1, :1].to(at_least_float32(level)) for level in maps]
        anchors, strides = (values.T for values in make_anchors(maps, self.stride, 0.5))
        if not passing:
            self.anchors, self.strides, self.shape = anchors, strides, maps[0].shape
        return anchors, strides

    def _look_again(
        self,
        modules: nn.ModuleList,
        features: Features,
        preds: dict[str, Any],
        finer: list[torch.Tensor],
        positive: torch.Tensor | None,
    ) -> Borders:
        """Return what the border branch sees where the boxes are; where to look gets no gradient from it."""
        x: list[torch.Tensor] = preds["feats"]
        maps = [x[0], *finer]
        if self.training and self.detach:
            maps = apart(maps)
        elif self.training and not x[0].requires_grad:  # the one-to-one head teaches the layers before it nothing
            maps = [level.detach() for level in maps]
        distances = preds["boxes"]
        if isinstance(self.dfl, MomentsDFL):
            distances, variance = self.dfl.moments(distances)
            if not self.training:  # kept, they spare the decoding a second softmax
                preds |= {"distances": distances, "side_var": variance}
        anchors, strides = (values[None] for values in preds.get("grid") or self._grid(x))
        extent = x[0].shape[3] * self.stride[0], x[0].shape[2] * self.stride[0]
        angle = preds["angle"].detach() if "angle" in preds else None
        places = Places(distances.detach(), anchors, strides, angle, extent)
        branch = next(branch for branch in self.branches if isinstance(branch, BorderBranch))
        # The number of anchors of a dynamic file is not known when it is written.
        whole = self.training or self.dynamic or "grid" in preds
        index = None if whole else branch.choose(preds["scores"])
        index = index if positive is None else among_first(positive)
        return branch.look(modules, features, maps, places, index, few="grid" in preds)

    def _branch_modules(self, prefix: str) -> dict[str, Any]:
        names = [f"cv_{b.name}" for b in getattr(self, "branches", ())]
        return {name: getattr(self, prefix + name) for name in names if hasattr(self, prefix + name)}


def own_copy(cls: type[nn.Module], module: nn.Module) -> Any:
    """Return a module of another class that shares the attributes, submodules and parameters of a module.

    The registries of a module (submodules, parameters, hooks) are dicts and copied: what joins the new module does not
    join the old one.
    """
    new = cls.__new__(cls)
    new.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in module.__dict__.items()})
    return new


def _computed(outputs: list[torch.Tensor]) -> Any:
    """Return outputs that are already computed in the form of the modules that the stock head calls."""
    return [lambda _, y=y: y for y in outputs]
