"""Train from a checkout: ``python train.py model=... data=...`` is ``yolo-uncert train model=... data=...``."""

import sys

from yolo_uncert.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
