"""Random images, coil maps, masks and trajectories, from which operators are made."""

import torch

__all__ = [
    "coil_covariance",
    "coil_maps",
    "column_mask",
    "point_mask",
    "random_tensor",
    "random_trajectory",
]


def random_tensor(*shape, dtype=torch.complex128):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def coil_maps(batch, coils, *shape):
    maps = random_tensor(batch, coils, *shape)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


def column_mask(n, seed=0):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[n // 2] = True
    return mask


def point_mask(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[tuple(n // 2 for n in shape)] = True
    return mask


def random_trajectory(samples, *shape):
    """Random points ``(samples, axes)`` of the whole band, both end points included."""
    half = torch.tensor(shape, dtype=torch.float64) / 2
    points = 2 * torch.rand(samples, len(shape), dtype=torch.float64, generator=torch.Generator().manual_seed(3)) - 1
    points[0], points[1] = 1.0, -1.0
    return points * half


def coil_covariance(coils):
    root = random_tensor(coils, coils)
    return root @ root.mH + torch.eye(coils)
