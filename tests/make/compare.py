"""Comparisons of arrays."""

import numpy as np

__all__ = [
    "assert_close",
    "relative_error",
]


def assert_close(a, b, rtol):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= rtol * max(1.0, float(b.abs().max()))


def relative_error(found, truth):
    """Norm of the error over the norm of the truth."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
