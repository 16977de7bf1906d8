"""Training rows of noisy images from clean slices: every slice gets noise once, so that no average shows a clean image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrecon.data.errors import InputError, one_line
from medrecon.training.augment import Crops
from medrecon.training.corruption import estimate_noise, noise_family

__all__ = ["ScaledCrops", "noise_range", "noisy_rows"]


def noisy_rows(
    rows: Sequence[Mapping[str, Any]],
    family: str = "gaussian",
    level: float | Sequence[float] = 0.1,
    *,
    unit: float = 200.0,
    seed: int = 0,
    truth: bool = False,
) -> list[dict[str, Any]]:
    """Rows of one noisy image and its estimated nominal noise level, for the objectives of :mod:`medrecon.training.denoising`.

    Args:
        rows: rows with a clean ``image`` ``(1, y, x)``, see :func:`medrecon.training.slices.load_slices`.
        family: ``gaussian``, ``poisson`` or ``gamma``.
        level: sigma, the peak or k; of two values each slice takes one between them, log-uniform.
        unit: stored value of image unit 1.0.
        seed: of the noise.
        truth: keep the true image as ``clean``, for validation.

    Returns:
        rows with ``image``, ``noise_std``, ``subject`` if the slices have it, and, with ``truth``, ``clean``; slices without
        noise, such as empty ones under Poisson noise, are left out.

    Raises:
        InputError: for a family or a level that cannot be used.
    """
    levels = [level, level] if isinstance(level, int | float) else list(level)
    if len(levels) != 2 or not all(isinstance(one, int | float) and 0 < one < math.inf for one in levels):
        raise InputError(f"level must be one number above 0, or the least and the largest; got {level!r}")
    out = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for row in rows:
            clean = torch.as_tensor(row["image"]).float() / unit
            at = levels[0] * (levels[1] / levels[0]) ** float(torch.rand(()))
            try:
                noisy = noise_family(family, at).corrupt(clean[None])
            except (ValueError, TypeError) as error:
                raise InputError(one_line(error)) from error
            try:
                std = estimate_noise(family, noisy).std
            except ValueError:  # no noise is found
                continue
            about = {"subject": row["subject"]} if "subject" in row else {}
            out.append({"image": noisy[0], "noise_std": std, **({"clean": clean} if truth else {}), **about})
    return out


def noise_range(rows: Sequence[Mapping[str, Any]], scale: Sequence[float] = (1.0, 1.0)) -> tuple[float, float]:
    """The noise levels for which a denoiser can be used: those of its training rows, and a little more on both sides.

    A third less, since the unit of a volume differs from those of its slices, which a reconstruction uses; 10 % more. One row
    in a hundred may lie outside, since levels are estimates.

    Args:
        rows: rows with ``noise_std``.
        scale: least and largest factor of :class:`ScaledCrops`.
    """
    least, most = torch.tensor([float(row["noise_std"]) for row in rows]).quantile(torch.tensor([0.01, 0.99])).tolist()
    return float(f"{least * scale[0] / 1.5:.4g}"), float(f"{most * scale[1] * 1.1:.4g}")


@dataclass(frozen=True)
class ScaledCrops:
    """Random crops, turns and flips of noisy images, multiplied with their noise level by a random number.

    So the network sees other brightness than that of the archives. Only for Gaussian noise: the level of the others does not
    scale with the image.

    Args:
        crop: side of the crops, pixels; see :class:`medrecon.training.augment.Crops`.
        scale: least and largest factor, log-uniform.
        family: kind of noise.

    Raises:
        InputError: for factors that are not in order above 0, or noise that does not scale.
    """

    crop: int | Sequence[int] = 64
    scale: tuple[float, float] = (1.0, 1.0)
    family: str = "gaussian"

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < math.inf:
            raise InputError(f"scale must be two numbers above 0, the smaller first; got {list(self.scale)}")
        if self.family != "gaussian" and (low, high) != (1, 1):
            raise InputError(f"{self.family} noise does not scale with the image; set scale to [1.0, 1.0]")

    def __call__(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        """Crop and scale the images ``(B, C, y, x)``, and scale ``noise_std`` ``(B,)``."""
        low, high = self.scale
        data = Crops(crop=self.crop)(data)
        if low == high == 1:
            return data
        factor = low * (high / low) ** torch.rand_like(data["noise_std"])
        return {name: value * factor.view(-1, *[1] * (value.ndim - 1)) for name, value in data.items()}
