"""Results of one image whose boxes carry their uncertainty."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ultralytics.engine.results import Results

from yolo_uncert.engine.boxes import TURNED, Array, UncertBoxes, UncertOBB
from yolo_uncert.engine.plotting import draw_detections
from yolo_uncert.functional.conformal import Conformal

if TYPE_CHECKING:
    from supervision import Detections


class UncertResults(Results):
    """Detections of one image, with the uncertainty of every box in ``boxes.std`` or ``obb.std``.

    Everything else is that of ``ultralytics.engine.results.Results``; without fields the two behave the same.

    Args:
        orig_img: Image, Array[H, W, C] BGR or Tensor as in Ultralytics.
        path: Path of the image.
        names: Class names.
        boxes: Array[N, 6 or 7] of a detector, see :class:`UncertBoxes`.
        obb: Array[N, 7 or 8] of an oriented detector, see :class:`UncertOBB`; give one of the two.
        fields: Field name to Array[N, ...], the uncertainty of these boxes.
        conformal: Scores of a calibration set, for conformal intervals around these boxes.
        speed: Milliseconds per stage.

    Raises:
        ValueError: A field does not fit the boxes, or it is not clear which boxes the fields belong to.
    """

    def __init__(
        self,
        orig_img: Any,
        path: str,
        names: dict[int, str],
        boxes: Array | None = None,
        *,
        obb: Array | None = None,
        fields: Mapping[str, Array] | None = None,
        conformal: Conformal | None = None,
        speed: dict[str, float] | None = None,
    ) -> None:
        super().__init__(orig_img, path, names, speed=speed)
        if fields and (boxes is None) == (obb is None):
            raise ValueError("fields need the boxes they belong to: give either boxes or obb")
        self.boxes = None if boxes is None else UncertBoxes(boxes, self.orig_shape, fields, conformal)
        self.obb = None if obb is None else UncertOBB(obb, self.orig_shape, fields, conformal)

    def new(self) -> UncertResults:
        """Return results without boxes of the same image, names, speed and save folder."""
        result = type(self)(self.orig_img, self.path, self.names, speed=self.speed)
        result.save_dir = self.save_dir
        return result

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Replace boxes as in Ultralytics; the fields stay when the number of rows does.

        Row i of the new boxes has to be the detection of row i, as after ``result[indices]`` in Ultralytics' trackers.
        For boxes with track ids this is checked, see :meth:`UncertBoxes.adopt`.

        Args:
            *args: As for ``Results.update``.
            **kwargs: As for ``Results.update``, e.g. ``boxes`` or ``obb``.
        """
        before = {"boxes": self.boxes, "obb": self.obb}
        super().update(*args, **kwargs)
        for (key, old), kind in zip(before.items(), (UncertBoxes, UncertOBB), strict=True):
            new = getattr(self, key)
            if new is not old:
                setattr(self, key, kind(new.data, new.orig_shape) if old is None else old.adopt(new))

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Return one dictionary per box, as Ultralytics' with the keys ``std`` and ``iou`` added.

        ``std`` has the keys x1, y1, x2, y2, or x, y, w, h, angle for oriented boxes. It is None for a track without a
        detection of its own. Both keys are absent when the model predicts no such value.

        Args:
            normalize: Divide coordinates and their standard deviations by the width (x, w) and height (y, h) of the
                image; the standard deviation of an angle stays in radians.
            decimals: Number of decimal places.
        """
        rows: list[dict[str, Any]] = super().summary(normalize, decimals)
        found = self._detections
        if not rows or found is None:
            return rows
        if (std := found.stdn if normalize else found.std) is not None:
            for row, values in zip(rows, std.tolist(), strict=True):
                named = zip(found.coordinates, (round(value, decimals) for value in values), strict=True)
                row["std"] = dict(named) if all(map(math.isfinite, values)) else None
        if found.iou is not None:
            for row, value in zip(rows, found.iou.tolist(), strict=True):
                row["iou"] = round(value, decimals) if math.isfinite(value) else None
        return rows

    def save_txt(self, txt_file: str | Path, save_conf: bool = False, save_std: bool | None = None) -> str:
        """Append one line per box to a text file, as Ultralytics does, with the standard deviations at its end.

        ``class x y w h [score] [track id] [sx1 sy1 sx2 sy2]``, or for oriented boxes ``class x1 y1 x2 y2 x3 y3 x4 y4
        [score] [track id] [sx sy sw sh sangle]``. Positions are relative to the image, and so are their standard
        deviations, as in ``stdn``; that of the angle is in radians. "nan" marks a track without a detection of its own.
        The stock columns keep their places; the standard deviations are always the last four (five) columns.

        Without scores they are left out by default: such a file serves as labels for training, and Ultralytics takes a
        label line of more than six columns for a polygon, so that standard deviations would become corner points.

        Args:
            txt_file: File to append to; folders are made.
            save_conf: Write the score.
            save_std: Write the standard deviations; None: when scores are written.

        Returns:
            The path of the file.
        """
        found = self._detections
        if not (save_conf if save_std is None else save_std) or not found or found.stdn is None:
            return str(super().save_txt(txt_file, save_conf))
        with TemporaryDirectory() as folder:
            stock = Path(super().save_txt(Path(folder) / "stock.txt", save_conf)).read_text(encoding="utf-8")
        Path(txt_file).parent.mkdir(parents=True, exist_ok=True)
        with Path(txt_file).open("a", encoding="utf-8") as file:
            for line, values in zip(stock.splitlines(), found.stdn.tolist(), strict=True):
                file.write(" ".join([line, *(f"{value:g}" for value in values)]) + "\n")
        return str(txt_file)

    def to_supervision(self) -> Detections:
        """Return the boxes as ``supervision.Detections``, with the uncertainty in ``data``.

        ``xyxy``, ``confidence``, ``class_id``, ``tracker_id``, ``data["class_name"]`` and, of oriented boxes,
        ``data["xyxyxyxy"]`` are those of ``Detections.from_ultralytics``. Beside them ``data`` has every field of the
        boxes (``std``, ``iou``, ...) as an array with one row per box, so that filters and trackers of supervision keep
        them in step.

        Raises:
            ImportError: supervision is not installed.
        """
        try:
            from supervision import Detections  # an extra, and not before it is needed
        except ImportError as error:
            raise ImportError("to_supervision needs supervision: pip install 'yolo-uncert[supervision]'") from error
        detections = Detections.from_ultralytics(self)
        if self._detections is not None:
            fields: Any = self._detections.cpu().numpy().fields
            detections.data.update({name: rows for name, rows in fields.items() if name != TURNED})
        return detections

    def plot(self, *args: Any, bands: bool = True, **kwargs: Any) -> Any:
        """Draw the boxes, and under their lines a band from coordinate - sigma to coordinate + sigma for each side.

        The label ends with the mean sigma of the four sides, e.g. "RBC 0.87 ±2.3px". Lines are at most half as thick as
        Ultralytics' unless ``line_width`` is given. Bands follow the sides along the box axes; sigma of the angle has
        none. Results without standard deviations, and ``bands=False``, are drawn exactly as by Ultralytics.

        Args:
            *args: As for ``Results.plot``.
            bands: Draw the uncertainty.
            **kwargs: As for ``Results.plot``. ``labels=None``, here the default, leaves the labels out when there are
                more than 40 boxes or when the boxes are too small for them, and fits the text size to the boxes.

        Returns:
            Array[H, W, 3] BGR, or a PIL image with ``pil=True``.
        """
        call = inspect.signature(Results.plot).bind(self, *args, **kwargs)
        labels = call.arguments.get("labels")
        call.apply_defaults()
        options = {name: value for name, value in call.arguments.items() if name != "self"}
        options["labels"] = labels is None or labels
        found = self._detections
        if not (bands and options["boxes"] and found) or found.side_std is None:
            return super().plot(**options)
        canvas = np.array(super().plot(img=options["img"], boxes=False))
        found = found.to("cpu", torch.float32).numpy()
        canvas = draw_detections(canvas, found, self.names, {**options, "labels": labels})
        return super().plot(**{**options, "img": canvas, "boxes": False})

    @property
    def _detections(self) -> UncertBoxes | UncertOBB | None:
        return self.boxes if self.obb is None else self.obb
