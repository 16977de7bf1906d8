"""All options of a reconstruction. The command line, the bundles and Python share these dataclasses. No heavy imports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np

    Array: TypeAlias = np.ndarray | str | Path

__all__ = [
    "MAP_METHODS",
    "NOISE_MODELS",
    "OPTION_GROUPS",
    "QUALITIES",
    "CartesianPhysics",
    "CoilPhysics",
    "DynamicPhysics",
    "ImagePhysics",
    "NonCartesianPhysics",
    "Physics",
    "PriorSettings",
    "SamplingSettings",
    "TomographyPhysics",
    "default_solver",
    "given_maps",
    "option_names",
]


NOISE_MODELS = ("gaussian", "poisson", "rician")
"""Noise distributions."""
MAP_METHODS = ("auto", "espirit", "joint")
"""Ways to estimate coil maps: joint estimation where ESPIRiT has too few calibration lines; ESPIRiT; joint estimation."""
QUALITIES = ("fast", "standard", "best")
"""Numbers of network evaluations that a prior lists by acceleration, ascending."""

VOLUME_HELP = "reconstruct all slices as one volume, not one by one"


def option(default: Any, text: str, **argument: Any) -> Any:  # noqa: ANN401 - like dataclasses.field
    """A field with the help text of its flag, and the other arguments of argparse's ``add_argument``."""
    metadata = {"help": text, **argument}
    if isinstance(default, slice):  # not hashable before Python 3.12, so dataclasses reject it as mutable
        return field(default_factory=lambda: default, metadata=metadata)
    return field(default=default, metadata=metadata)


def given_maps(maps: Any) -> Any:  # noqa: ANN401 - an array, its file, or a word
    """The coil maps that a user gives, an array or its file; ``None`` if ``maps`` is a way to estimate them."""
    return None if maps is None or (isinstance(maps, str) and maps in MAP_METHODS) else maps


def default_solver(options: Mapping[str, Any]) -> str:
    """Name of the solver that suits these options if the user names none."""
    factor = options.get("factor")
    if options.get("task") == "superres" and isinstance(factor, Sequence) and len(factor) == 3:
        return "dds-3d"  # thick slices do not determine thin ones, which then flicker
    if options.get("task") == "deblur" and options.get("kernel") == "unknown":
        return "blinddps"
    return "dds"


def option_names(settings: type) -> list[str]:
    """Names of the options of a dataclass."""
    return [one.name for one in fields(settings)]


@dataclass(frozen=True, kw_only=True)
class PriorSettings:
    """Options of the prior.

    Args:
        bundle: name or folder of the prior's bundle, or a :class:`medrecon.posterior.PriorSpec`; ``None``: the bundle for the
            kind of scan.
        condition: label on which the prior is conditioned, e.g. the image contrast; ``None`` or empty: unconditional.
        guidance: classifier-free guidance scale.
        planes: planes of a volume that go through the prior, one at every noise level, separated by commas: ``axial`` (the
            slices, y and x), ``coronal`` (z and x) and ``sagittal`` (z and y).
    """

    bundle: str | Path | Any = option(
        None, "name or folder of the prior's bundle (default: depends on the kind of scan)"
    )
    condition: str | None = option(
        None, "label that conditions the prior, e.g. the contrast T1 (default: none)", metavar="LABEL"
    )
    guidance: float = option(1.0, "classifier-free guidance scale (default: 1)", metavar="W", type=float)
    planes: str = option(
        "axial",
        "planes of a volume for the prior, in turn: axial, coronal and sagittal, separated by commas (default: axial)",
        metavar="NAMES",
    )


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Options of the solver.

    Args:
        solver: name of a solver, as listed by ``medrecon solvers``; see :func:`default_solver`.
        settings: hyper-parameters of the solver; the others have the values tuned for the prior, or else their defaults.
        posterior: use the prior's settings for posterior samples (``posterior`` of its ``prior.yaml``) instead of those tuned for
            the best image.
        quality: ``fast``, ``standard`` or ``best``: the prior's number of network evaluations, and settings that suit it, for the
            acceleration of the scan; ``None``: ``standard``, or the settings that suit ``steps``.
        steps: network evaluations per sample; ``None``: the number that ``quality`` gives.
        samples: posterior samples per slice.
        particles: particles per slice of a particle solver; ``None``: 8, or as many as ``samples``.
        calibration: file of ``medrecon calibrate`` for these settings and this acceleration, so that the spread of samples
            becomes an uncertainty; ``"none"``: none; ``None``: that of the bundle, where it has one.
        seed: random seed.
        start: classical solver of the warm start (CCDF); ``None``: start from noise.
        start_sigma: noise level of the warm start, for images of unit scale.
        z_correlation: correlation length of the noise between the slices of a volume, in slices; 0: independent; ``None``: the
            default of the problem.
        sigma_max: first noise level, for images of unit scale; ``None``: the value tuned for the prior.
        sigma_min: last noise level before 0, for images of unit scale; ``None``: the prior's default.
        spacing: noise levels are evenly spaced in ``sigma^(1 / spacing)``; ``None``: the value tuned for the prior, or else 7.
        max_memory: memory that the reconstruction of a volume may take, GB; where the whole does not fit, slabs of slices are
            reconstructed one after the other and blended. ``None``: no limit.
        chunk: slices or samples per batch; ``None``: chosen by their size, see :func:`medrecon.posterior.batch_size`.
    """

    solver: str = option(
        "dds",
        "name of a solver; list them with 'medrecon solvers' (default: dds; dds-3d for thin slices from thick ones, blinddps for "
        "an unknown blur, tweedie with a bundle that only denoises)",
    )
    settings: Mapping[str, Any] | None = option(None, "change a setting of the solver; repeatable", flag="--set")
    posterior: bool = option(
        False, "use the bundle's settings for posterior samples, not those for the best image", action="store_true"
    )
    quality: str | None = option(
        None, "how many network evaluations, given the acceleration (default: standard)", choices=QUALITIES
    )
    steps: int | None = option(
        None, "network evaluations per sample (default: depends on --quality)", metavar="N", type=int
    )
    samples: int = option(1, "number of posterior samples (default: 1)", metavar="K", type=int)
    particles: int | None = option(
        None, "number of particles of tds, fps, mcgdiff and ddsmc (default: 8)", metavar="P", type=int
    )
    calibration: str | Path | None = option(
        None,
        "file of 'medrecon calibrate' for these settings, or none (default: the bundle's, where it has one)",
        metavar="FILE",
    )
    seed: int = option(0, "random seed (default: 0)", metavar="N", type=int)
    start: str | None = option(None, "warm-start from a classical solver (CCDF), e.g. cg-sense", metavar="SOLVER")
    start_sigma: float | None = option(None, "noise level of the warm start, e.g. 0.1", metavar="S", type=float)
    z_correlation: float | None = option(
        None, "correlation of the noise between slices of a volume, in slices (default: 0)", metavar="L", type=float
    )
    sigma_max: float | None = option(None, "first noise level (default: the bundle's)", flag=None)
    sigma_min: float | None = option(None, "last noise level before 0 (default: the bundle's)", metavar="S", type=float)
    spacing: float | None = option(None, "spacing of the noise levels (default: the bundle's)", flag=None)
    max_memory: float | None = option(
        None,
        "memory that a volume may take; a larger one is cut into slabs (default: no limit)",
        metavar="GB",
        type=float,
    )
    chunk: int | None = option(None, "slices or samples per batch (default: depends on their size)", flag=None)


@dataclass(frozen=True, kw_only=True)
class Physics:
    """Options of every kind of scan.

    Args:
        slices: slices to reconstruct; they keep their indices in the scan.
        noise_std: noise standard deviation per real component of the data; ``None``: from a noise scan, otherwise estimated from
            the data.
        noise_model: ``gaussian``, ``poisson`` (sinograms with a number of photons) or ``rician`` (magnitude images).
        noise_source: source of ``noise_std``, for the record.
    """

    slices: slice = option(
        slice(None), "reconstruct slices A to B-1 (default: all); --slices=-2: selects the last two", metavar="A:B"
    )
    noise_std: float | None = option(
        None, "noise standard deviation per real component (default: estimated)", metavar="S", type=float
    )
    noise_model: str = option("gaussian", "noise distribution (default: gaussian)", choices=NOISE_MODELS)
    noise_source: str = option("given", "source of the noise level, for the record", flag=None)


@dataclass(frozen=True, kw_only=True)
class CoilPhysics(Physics):
    """Options of all k-space.

    Args:
        maps: coil sensitivities ``(coils, *matrix)`` or ``(slices, coils, *matrix)``, or their file; or a way to estimate them:
            ``espirit`` from the centre of k-space (of the mean k-space of a dynamic series), ``joint`` with the image, or
            ``auto``, which is ``joint`` for Cartesian k-space with too few calibration lines for ESPIRiT. A file with such a
            name is given as ``./joint``.
        whiten: prewhiten coils using the noise scan.
        compress: number of virtual coils (SVD); ``None``: all coils.
    """

    maps: Array | None = option(
        "auto",
        "coil sensitivities, a file with an array 'maps'; or how to estimate them: espirit, joint (with the image), or auto, "
        "which is joint with too few calibration lines for ESPIRiT (default: auto); a file named joint is ./joint",
        metavar="FILE|METHOD",
    )
    whiten: bool = option(False, "prewhiten coils using the noise scan", action="store_true")
    compress: int | None = option(None, "compress to N virtual coils (SVD)", metavar="N", type=int)


@dataclass(frozen=True, kw_only=True)
class CartesianPhysics(CoilPhysics):
    """Options of Cartesian k-space.

    Args:
        mask: sampling mask, true where sampled, ``(x,)`` or ``(y, x)``, or one per slice ``(slices, y or 1, x)``, or its file;
            ``None``: the mask of the scan.
        map_sets: number of sets of ESPIRiT maps, ``1``, ``2`` or ``auto`` (2 if the object is larger than the field of view).
        volume: reconstruct all slices as one volume, with one scale; see docs/volumes.md.
        correct_motion: estimate rigid in-plane motion between shots, and correct it.
        shots: label of the shot of every position of k-space, ``(x,)`` or ``(y, x)``, whole numbers, -1 where not sampled, or
            their file; ``None``: the labels of the scan. Used with ``correct_motion``.
        coil_images: ``sense`` (one image seen by all coils), ``ssos`` (one image per coil without maps, combined by the root
            sum of squares) or ``hybrid`` (Score-MRI's mixture of both).
    """

    mask: Array | None = option(
        None,
        "sampling mask, a file with an array 'mask' (default: the scan's, otherwise inferred from zero samples)",
        metavar="FILE",
    )
    map_sets: str | int = option(
        "auto",
        "number of sets of ESPIRiT maps; auto: 2 if the object exceeds the field of view (default: auto)",
        choices=("auto", "1", "2"),
    )
    volume: bool = option(False, VOLUME_HELP, action="store_true")
    correct_motion: bool = option(
        False, "estimate and correct rigid in-plane motion between shots", action="store_true"
    )
    shots: Array | None = option(
        None, "labels of the shots, a file with an array 'shots' (default: the scan's)", metavar="FILE"
    )
    coil_images: str = option(
        "sense",
        "reconstruct one image (sense), one image per coil (ssos), or Score-MRI's hybrid of both (default: sense)",
        choices=("sense", "ssos", "hybrid"),
    )


@dataclass(frozen=True, kw_only=True)
class DynamicPhysics(CoilPhysics):
    """Options of dynamic series."""


@dataclass(frozen=True, kw_only=True)
class NonCartesianPhysics(CoilPhysics):
    """Options of non-Cartesian k-space."""


@dataclass(frozen=True, kw_only=True)
class TomographyPhysics(Physics):
    """Options of sinograms.

    Args:
        image_size: pixels per axis of the square images.
        voxel: pixel size of the images, mm; ``None``: the image is as wide as the detector at the rotation axis.
        photons: photons emitted per ray; ``None``: the number in the file; 0: unknown.
        water: attenuation of water, 1/mm (0.02 at about 65 keV).
        volume: reconstruct all slices as one volume; the volume of a cone beam always is.
    """

    image_size: int = option(256, "pixels per axis of the square images (default: 256)", metavar="N", type=int)
    voxel: float | None = option(
        None, "pixel size in mm (default: the image is as wide as the detector)", metavar="MM", type=float
    )
    photons: float | None = option(None, "photons per ray (default: the file's)", metavar="N", type=float)
    water: float = option(0.02, "attenuation of water in 1/mm (default: 0.02)", metavar="MU", type=float)
    volume: bool = option(False, VOLUME_HELP, action="store_true")


@dataclass(frozen=True, kw_only=True)
class ImagePhysics(Physics):
    """Options of images.

    Args:
        task: ``denoise``, ``superres`` or ``deblur``.
        factor: super-resolution factor, ``(y, x)`` or one number for both; ``(z, y, x)`` makes thin slices of thick ones, as one
            volume.
        kernel: model of the low resolution: ``kspace`` (smaller k-space), ``mean`` (larger pixels) or ``gaussian`` (slice
            profile); for ``deblur`` ``gaussian``, or ``unknown``: a motion or defocus kernel is estimated with the image.
            ``None``: ``kspace``, for ``deblur`` ``gaussian``.
        blur: standard deviation of the Gaussian blur to undo, pixels.
        strength: noise level that R2D2+ removes, relative to the noise level of the image; more than 1 smooths more.
        region: part of the image that is denoised, ``(y0, y1, x0, x1)``; the rest is unchanged; ``None``: the whole image.
        volume: reconstruct all slices as one volume, with one scale and one noise level.
    """

    task: str = option("denoise", "task for images (default: denoise)", choices=("denoise", "superres", "deblur"))
    factor: int | Sequence[int] = option(
        2, "super-resolution factor F, FY,FX or, for thick slices, FZ,FY,FX (default: 2)", metavar="F", type=int
    )
    kernel: str | None = option(
        None,
        "low-resolution model: smaller k-space (kspace, the default), larger pixels (mean) or slice profile (gaussian); for "
        "deblur: gaussian (the default), or unknown, which estimates the kernel",
        choices=("kspace", "mean", "gaussian", "unknown"),
    )
    blur: float = option(
        1.0, "standard deviation of the Gaussian blur to undo, in pixels (default: 1)", metavar="S", type=float
    )
    strength: float | None = option(
        None, "noise level that R2D2+ removes, relative to the noise of the image (default: 1)", metavar="F", type=float
    )
    region: Sequence[int] | None = option(
        None, "region of the image to denoise, Y0:Y1,X0:X1 (default: all)", metavar="ROI"
    )
    volume: bool = option(False, VOLUME_HELP, action="store_true")


OPTION_GROUPS: Mapping[str, type] = {
    "prior": PriorSettings,
    "sampling": SamplingSettings,
    "k-space": CartesianPhysics,
    "non-Cartesian k-space": NonCartesianPhysics,
    "dynamic series": DynamicPhysics,
    "sinograms": TomographyPhysics,
    "images": ImagePhysics,
}
"""Dataclasses of options by the title of their group in the help."""
