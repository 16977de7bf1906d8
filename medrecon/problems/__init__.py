"""Problems: the physics of each kind of scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from medrecon.data.arguments import shown
from medrecon.data.errors import InputError
from medrecon.data.scan import CartesianScan, DynamicScan, ImageScan, NonCartesianScan, Scan, Sinogram
from medrecon.problems.base import Fit, Problem, Scaled
from medrecon.problems.coil_images import cartesian_problem
from medrecon.problems.dynamic import dynamic_problem
from medrecon.problems.noncartesian import noncartesian_problem
from medrecon.problems.stack import Stack
from medrecon.problems.thick import image_problem
from medrecon.problems.tomography import tomography_problem
from medrecon.settings import (
    NOISE_MODELS,
    CartesianPhysics,
    DynamicPhysics,
    ImagePhysics,
    NonCartesianPhysics,
    Physics,
    TomographyPhysics,
    option_names,
)

__all__ = ["PROBLEMS", "Fit", "Kind", "Problem", "Scaled", "physics_of", "problem"]


class Kind(NamedTuple):
    """A kind of scan.

    Args:
        about: description, for messages.
        physics: class of its options.
        problem: function from a scan and its options to a problem.
    """

    about: str
    physics: type[Physics]
    problem: Callable[[Any, Any], Problem]


PROBLEMS: dict[type, Kind] = {
    CartesianScan: Kind("Cartesian k-space", CartesianPhysics, cartesian_problem),
    DynamicScan: Kind("a dynamic scan", DynamicPhysics, dynamic_problem),
    NonCartesianScan: Kind("non-Cartesian k-space", NonCartesianPhysics, noncartesian_problem),
    ImageScan: Kind("an image", ImagePhysics, image_problem),
    Sinogram: Kind("a sinogram", TomographyPhysics, tomography_problem),
}


def _kind(scan: Scan) -> Kind:
    kind = PROBLEMS.get(type(scan))
    if kind is None:
        raise InputError(f"{getattr(scan, 'path', 'the scan')}: a {type(scan).__name__} cannot be reconstructed")
    return kind


def physics_of(scan: Scan, also: Sequence[str] = (), /, **options: Any) -> Physics:  # noqa: ANN401
    """The physics options of a scan.

    Args:
        scan: a scan of any kind.
        also: further option names, which an error may suggest.
        **options: fields of the physics.

    Raises:
        InputError: for an option that this kind of scan does not have, naming the kinds that have it.
    """
    kind = _kind(scan)
    known = option_names(kind.physics)
    for name in options:
        if name not in known:
            others = [other.about for other in PROBLEMS.values() if name in option_names(other.physics)]
            near = get_close_matches(name, [*known, *also], n=1, cutoff=0.6)
            hint = f"; it is an option of {' and '.join(others)}" if others else ""
            hint = hint or (f"; did you mean {near[0]!r}?" if near else "")
            raise InputError(f"{scan.path}: {kind.about} has no option {name!r}{hint}")
    return kind.physics(**options)


def problem(scan: Scan, physics: Physics | None = None) -> Problem:
    """The problem of a scan; ``physics`` defaults to the default options.

    Raises:
        InputError: for data or options that cannot be used.
    """
    kind = _kind(scan)
    physics = kind.physics() if physics is None else physics
    if physics.noise_model not in NOISE_MODELS:
        raise InputError(f"unknown noise model {shown(physics.noise_model)}; choose one of {', '.join(NOISE_MODELS)}")
    solved = kind.problem(scan, physics)
    return _as_volume(solved, physics) if getattr(physics, "volume", False) else solved


def _as_volume(solved: Problem, physics: Any) -> Problem:  # noqa: ANN401 - physics with the option volume
    """All slices as one unknown; a cone beam, whose rays cross slices, is a volume already.

    Raises:
        InputError: for options that volumes do not have.
    """
    if not isinstance(physics.volume, bool):
        raise InputError(f"volume must be true or false; got {shown(physics.volume)}")
    if len(solved.image_shape) == 4:
        return solved
    if physics.noise_model == "rician":
        raise InputError(f"{solved.name}: the noise model rician is for single slices; leave volume out (--volume)")
    if getattr(physics, "coil_images", "sense") == "hybrid":
        raise InputError(f"{solved.name}: hybrid coil images are reconstructed slice by slice; leave volume out")
    return Stack(solved)
