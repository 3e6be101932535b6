"""Covariance matrices of boxes: from standard deviations of their sides, and from one representation to another.

Shape shorthand: N boxes. All maps are first-order, ``J C J^T`` with the Jacobian J at the box; all but those that touch
the aspect ratio ``a = w / h`` are linear, hence exact. Float64 throughout.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

CORNERS_TO_CENTRE = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [-1, 0, 1, 0], [0, -1, 0, 1]])
"""(x, y, w, h) as a linear map of (x1, y1, x2, y2)."""

CENTRE_TO_CORNERS = np.linalg.inv(CORNERS_TO_CENTRE)


def corner_covariance(std: Floats) -> Floats:
    """Covariance of (x, y, w, h) from the standard deviations of independent sides.

    ``J diag(std^2) J^T`` with ``J`` as in CORNERS_TO_CENTRE. Sides that are not equally certain correlate centre and
    size: ``cov(x, w) = (v_x2 - v_x1) / 2``.

    Args:
        std: Array[N, 4] of (x1, y1, x2, y2) in pixels, non-negative.

    Returns:
        Array[N, 4, 4] in pixels squared, symmetric and positive semidefinite.
    """
    factor = CORNERS_TO_CENTRE * np.asarray(std, np.float64)[:, None]
    return factor @ factor.swapaxes(-1, -2)


def propagate(covariance: Floats, jacobian: Floats) -> Floats:
    """Return ``J C J^T``, exactly symmetric.

    Args:
        covariance: Array[N, C, C].
        jacobian: Array[C, C], or Array[N, C, C] with one for each box.

    Returns:
        Array[N, C, C].
    """
    result = jacobian @ covariance @ np.swapaxes(jacobian, -1, -2)
    return (result + result.swapaxes(-1, -2)) / 2


def size_to_aspect(xywh: Floats) -> Floats:
    """Jacobian of (x, y, a, h) with respect to (x, y, w, h), ``a = w / h``.

    ``da = dw / h - (w / h^2) dh``.

    Args:
        xywh: Array[N, 4] of boxes in pixels, h > 0.

    Returns:
        Array[N, 4, 4].
    """
    width, height = np.asarray(xywh, np.float64)[:, 2:].T
    jacobian = np.tile(np.eye(4), (len(width), 1, 1))
    jacobian[:, 2, 2], jacobian[:, 2, 3] = 1 / height, -width / height**2
    return jacobian


def aspect_to_size(xyah: Floats) -> Floats:
    """Jacobian of (x, y, w, h) with respect to (x, y, a, h): ``dw = h da + a dh``.

    Args:
        xyah: Array[N, 4] of boxes, x, y and h in pixels.

    Returns:
        Array[N, 4, 4].
    """
    aspect, height = np.asarray(xyah, np.float64)[:, 2:].T
    jacobian = np.tile(np.eye(4), (len(aspect), 1, 1))
    jacobian[:, 2, 2], jacobian[:, 2, 3] = height, aspect
    return jacobian
