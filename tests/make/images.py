"""Images without a file, and tiny archives of training images."""

import numpy as np
import torch

__all__ = ["blobs", "disc", "write_ct_slices", "write_slices"]


def blobs(shape, seed=0):
    """A smooth complex image with a body, an edge and detail, maximum about 1, zero outside an ellipse."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[2 * (np.arange(n) - n // 2) / n for n in shape], indexing="ij")
    body = ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * 0.6
    for _ in range(6):
        cy, cx, r = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.3)
        body = body + rng.uniform(-0.2, 0.3) * (np.hypot(y - cy, x - cx) < r)
    return body * np.exp(1j * (0.5 + y + 0.5 * x))


def write_slices(path, contrasts=("T1", "T1Gd", "T2", "FLAIR"), side=64):
    """A tiny archive like those of the brain bundles."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        img=rng.integers(0, 200, (16, side, side), dtype=np.uint8),
        subject=np.array(["omsL_12"] * 16),
        contrast=np.array(list(contrasts) * 4),
        stripped=np.array([0] * 8 + [1] * 8),
    )


def write_ct_slices(path, side=64):
    """A tiny archive like that of the chest bundle: one held-out patient, two to train on."""
    rng = np.random.default_rng(0)
    np.savez(
        path,
        img=rng.integers(0, 2000, (12, side, side), dtype=np.uint16),
        subject=np.array(["siim_TCGA-17-Z021"] * 4 + ["a"] * 6 + ["b"] * 2),
        licence=np.array(["CC-BY-3.0"] * 12),
    )


def disc(shape, radius, centre, spacing, finer=8):
    """A disc of value 1, pixels by area; radius and centre (x right, y up) in units of length."""
    ny, nx = (n * finer for n in shape)
    x = (np.arange(nx) - (nx - 1) / 2) * spacing / finer - centre[0]
    y = ((ny - 1) / 2 - np.arange(ny)) * spacing / finer - centre[1]
    inside = (x[None] ** 2 + y[:, None] ** 2 <= radius**2).astype(np.float32)
    return torch.from_numpy(inside.reshape(shape[0], finer, shape[1], finer).mean((1, 3)))[None, None]
