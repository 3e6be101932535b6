"""Standard evaluations of arrays and files: COCO's for horizontal boxes, DOTA's for oriented ones; no Ultralytics.

>>> from yolo_uncert.evaluation import CocoImage, coco_detections, coco_ground_truth, evaluate_coco
>>> truth = coco_ground_truth([CocoImage(1, 480, 640, [[10, 10, 60, 60]], [0])], {0: "cell"})
>>> found = coco_detections(1, [[10, 10, 60, 50]], [0], [0.9])  # IoU 0.8
>>> round(evaluate_coco(truth, found)["AP"], 3)
0.7
"""

from yolo_uncert.evaluation.average_precision import average_precision, precision_recall
from yolo_uncert.evaluation.coco import evaluate_coco
from yolo_uncert.evaluation.coco_rows import CocoImage, coco_detections, coco_ground_truth
from yolo_uncert.evaluation.dota import DotaResult, evaluate_dota
from yolo_uncert.evaluation.dota_boxes import DotaDetections, DotaTruth
from yolo_uncert.evaluation.dota_files import read_dota, read_dota_labels, write_dota
from yolo_uncert.evaluation.polygons import corners, polygon_iou

__all__ = [
    "CocoImage",
    "DotaDetections",
    "DotaResult",
    "DotaTruth",
    "average_precision",
    "coco_detections",
    "coco_ground_truth",
    "corners",
    "evaluate_coco",
    "evaluate_dota",
    "polygon_iou",
    "precision_recall",
    "read_dota",
    "read_dota_labels",
    "write_dota",
]
