"""``python -m yolo_uncert`` is the ``yolo-uncert`` command."""

import sys

from yolo_uncert.cli import main

if __name__ == "__main__":
    sys.exit(main())
