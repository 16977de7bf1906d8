"""From a problem and a prior to images: the one path of command line, bundles and Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from medrecon.data.scan import Geometry
from medrecon.training.objectives import EDM, Objective

__all__ = ["ImageKind", "PriorSpec", "Reconstruction"]

ImageKind = Literal["complex", "magnitude", "attenuation"]
"""Images that a network was trained on: real and imaginary part, magnitude (both of unit scale), or HU / 1000 + 1."""


@dataclass(frozen=True, kw_only=True)
class PriorSpec:
    """A trained network, and the settings that suit it.

    Args:
        name: of the bundle, for the record.
        version: of the bundle.
        weights_sha256: of the weights.
        network: loads the weights, after checking them; called only by solvers with a prior.
        objective: what the network was trained for.
        images: what it was trained on.
        channels: of the network.
        labels: meaning of the network's class labels, in their order; empty: it takes none.
        multiple: sides are padded to a multiple of it for the network.
        symmetries: of the training images, arguments of :func:`medrecon.priors.equivariant`; empty: none.
        tuned: by name of a solver, settings that differ from its defaults, and ``sigma_max``.
        n_steps: default number of network evaluations per sample.
        sigma_min: last noise level before 0.
    """

    name: str
    version: str
    weights_sha256: str
    network: Callable[[], nn.Module]
    objective: Objective = EDM()  # noqa: RUF009 - frozen
    images: ImageKind = "complex"
    channels: int = 2
    labels: Sequence[str] = ()
    multiple: int = 16
    symmetries: Mapping[str, Any] = field(default_factory=dict)
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    n_steps: int = 50
    sigma_min: float = 0.005


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Images and how they were made.

    Args:
        image: ``(slices, y, x)`` float32: magnitudes in the scale of the coil-combined data, or HU; the mean of the samples.
        samples: ``(n, slices, y, x)`` float32 of the same kind, or ``None`` for one sample.
        phase: of the mean of the complex samples, rad, ``(slices, y, x)`` float32, or ``None`` for real images.
        geometry: of these slices.
        modality: of DICOM, ``MR`` or ``CT``.
        record: what was done, as the sidecar stores it.
    """

    image: np.ndarray
    samples: np.ndarray | None
    record: Mapping[str, Any]
    phase: np.ndarray | None = None
    geometry: Geometry = Geometry()  # noqa: RUF009 - frozen
    modality: str = "MR"
