"""Reconstruct scans (k-space, sinograms, images) with a diffusion prior or a classical solver."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medrecon.cli.cases import Case, digest_of, named, several_cases
from medrecon.data.errors import InputError
from medrecon.settings import (
    CartesianPhysics,
    DynamicPhysics,
    ImagePhysics,
    NonCartesianPhysics,
    PriorSettings,
    SamplingSettings,
    TomographyPhysics,
)

if TYPE_CHECKING:
    from medrecon.data.scan import Geometry, ImageScan
    from medrecon.posterior import PriorSpec
    from medrecon.writers import Output

__all__ = ["SETTINGS", "add_arguments", "begin_run", "name_of_images", "output_of", "reconstruct", "run", "sentence"]

_LOGGER = logging.getLogger(__name__)
SETTINGS = {
    "prior": PriorSettings,
    "sampling": SamplingSettings,
    "k-space": CartesianPhysics,
    "k-space along a trajectory": NonCartesianPhysics,
    "frames": DynamicPhysics,
    "sinograms": TomographyPhysics,
    "images": ImagePhysics,
}
COMPANIONS = {
    "trajectory": ("FILE", str, "trajectory of the samples (.npy or BART's pair), where the scan's file has none"),
    "matrix": ("Y,X", str, "matrix of the image of k-space along a trajectory (default: the file's)"),
    "phase": ("FILE", str, "phase of a NIfTI magnitude image"),
    "imaginary": ("FILE", str, "imaginary part of a NIfTI real part"),
    "detector_spacing": ("MM", float, "distance between detector pixels of a sinogram (default: the file's)"),
    "centre": ("P", float, "detector pixel of the rotation axis, from 0 (default: the file's)"),
    "axis_convention": ("NAME", str, "rotation axis of an even detector: middle (astra) or pixel (scikit-image)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN, -o and everything else."""
    from medrecon.cli.options import add_compute, add_select, add_settings, positive

    parser.add_argument(
        "input",
        metavar="IN",
        nargs="+",
        help="scans: k-space, sinograms or images (see 'medrecon info IN'), or folders of them; of several, those that an "
        "earlier run has made are not made again",
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of images and their sidecars")
    parser.add_argument("--config", metavar="FILE", help="YAML file whose keys are these options, e.g. steps: 50")
    add_settings(parser, SETTINGS)
    reading = parser.add_argument_group("reading")
    add_select(reading)
    reading.add_argument("--dynamic", metavar="AXIS", help="frames as one problem: phase, repetition, set or contrast")
    for name, (metavar, kind, about) in COMPANIONS.items():
        reading.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=about)
    _add_output(parser.add_argument_group("output"))
    several = parser.add_argument_group("several scans")
    several.add_argument("--workers", type=positive, metavar="N", help="processes, each with --threads (default: 1)")
    several.add_argument(
        "--dask", metavar="ADDRESS", help="scheduler of a cluster, e.g. tcp://host:8786 (default: none)"
    )
    add_compute(parser)


def _add_output(group: argparse._ArgumentGroup) -> None:
    from medrecon.cli.options import add_json, choice
    from medrecon.writers import WRITERS, all_parts

    group.add_argument("--format", default="nifti", choices=tuple(WRITERS), help="of the image (default: nifti)")
    group.add_argument("--part", default="mag", choices=all_parts(), help="what NIfTI files hold (default: mag)")
    group.add_argument(
        "--name", default="{stem}", metavar="NAME",
        help="of the images, with {stem} of the scan, {folder}, {solver}, {bundle}, {format} (default: {stem})",
    )  # fmt: skip
    group.add_argument("--bids", metavar="NAME", help="name of BIDS derivatives, e.g. sub-01_acq-mprage_T1w")
    group.add_argument(
        "--like",
        metavar="SERIES",
        help="DICOM series whose patient, study and, if need be, positions --format dicom copies",
    )
    group.add_argument(
        "--like-select", type=choice, action="append", default=[], metavar="NAME=VALUE",
        help="of several series or volumes in --like, as --select; repeatable",
    )  # fmt: skip
    group.add_argument(
        "--deidentify", action="store_true", help="keep of --like what the Basic profile of DICOM PS3.15 keeps"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs, and what else their sidecar lists"
    )
    group.add_argument(
        "--dry-run", action="store_true", help="check everything, say what would be made, and make nothing"
    )
    add_json(group)


def _load(arguments: argparse.Namespace, case: Case) -> Any:  # noqa: ANN401 - a scan
    """The scan, with its companions."""
    from medrecon.cli.options import numbers
    from medrecon.formats import Companions, load

    given = {name: getattr(arguments, name) for name in COMPANIONS}
    if given["matrix"] is not None:
        given["matrix"] = numbers("--matrix", given["matrix"])
    return load(case.path, case.select, companions=Companions(**given), frames=arguments.dynamic)


def output_of(arguments: argparse.Namespace, options: Mapping[str, Any]) -> Output:
    """Where images go, but for their name and their inputs."""
    from medrecon.writers import Output

    return Output(
        folder=arguments.output,
        stem="",
        format=arguments.format,
        overwrite=arguments.overwrite,
        part=arguments.part,
        like=_like(arguments.like, tuple(arguments.like_select), arguments.format),
        deidentify=arguments.deidentify,
        bids=arguments.bids,
        label=options.get("solver", "dds"),
    )


@functools.cache
def _like(path: str | None, select: tuple[tuple[str, Any], ...], format_: str) -> ImageScan | None:
    """The series that ``--like`` names, read once for all cases of a run."""
    from medrecon.writers import like_series

    return like_series(path, dict(select), format_)


def name_of_images(arguments: argparse.Namespace, options: Mapping[str, Any], case: Case) -> str:
    """Of the images."""
    solver, format_ = options.get("solver", "dds"), arguments.format
    bundle = Path(str(options.get("bundle", "default"))).name
    return named(arguments.name, case, solver=solver, format=format_, bundle=bundle)


_UNRELATED = {
    "argv", "command", "config", "dask", "debug", "dry_run", "input", "json", "name", "output", "overwrite", "quiet", "select",
    "threads", "verbose", "workers",
}  # fmt: skip
"""Arguments that change no image (``select`` is the case's); all others, new ones too, are part of what it is made of."""


def _request(arguments: argparse.Namespace, case: Case) -> str:
    """SHA-256 of everything that determines an image: options, and the contents of all files that they name."""
    from medrecon._version import __version__
    from medrecon.bundle import find_bundle

    kept = {name: value for name, value in vars(arguments).items() if name not in _UNRELATED}
    paths = [Path(value) for value in kept.values() if isinstance(value, str) and Path(value).is_file()]
    paths += [Path(kept["like"])] if kept["like"] is not None else []
    paths += [find_bundle(kept["bundle"])] if "bundle" in kept else []
    return digest_of(case, {"version": __version__, **kept}, paths)


def reconstruct(
    arguments: argparse.Namespace,
    case: Case,
    stem: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Load, plan, check the output, run, write one case; what ``run.json`` says of it.

    Args:
        arguments: of the command line.
        case: the scan.
        stem: of the names of its images; ``None``: that of a single scan, which is not skipped.
        progress: called with (steps done, steps in all).

    Raises:
        InputError: for whatever cannot be used.
    """
    from medrecon.cli.options import given_settings
    from medrecon.posterior import as_device
    from medrecon.reconstruction import plan
    from medrecon.writers import check, is_finished, write

    device = as_device(arguments.device)
    options = given_settings(arguments, SETTINGS)
    request = _request(arguments, case) if case.path.exists() else None
    output = replace(output_of(arguments, options), stem=stem or "", request=request)
    if stem is not None and not arguments.overwrite and is_finished(output):
        return {"status": "finished before"}
    scan = _load(arguments, case)
    if stem is None:
        stem = name_of_images(arguments, options, replace(case, stem=scan.stem))
    files = [options[name] for name in ("maps", "mask") if name in options]
    output = replace(output, stem=stem, sources=[scan.path, *files])
    planned = plan(scan, load=_prior, **options)
    _LOGGER.debug("%s: %s", case.path, _about(scan, planned))
    problem = planned.problem
    geometry = _placed(problem, scan, output=output, options=options)
    paths = check(
        output,
        slices=problem.n_slices,
        samples=planned.sampling.n_samples > 1,
        geometry=geometry,
        phase=not problem.real,
        frames=problem.has_frames,
    )
    if arguments.dry_run:
        return {"status": "planned", "files": [str(path) for path in paths], "solver": planned.solver}
    result = replace(planned.run(device, progress), geometry=geometry)
    if output.like is not None and output.like.warnings:
        both = [*result.record["warnings"], *output.like.warnings]
        result = replace(result, record={**result.record, "warnings": both})
    write(result, output)
    _LOGGER.debug("%s: %s", case.path, _found(result.record))
    return {"status": "done", "files": [str(path) for path in paths], **_facts(result.record)}


def _placed(problem: Any, scan: Any, output: Output, options: Mapping[str, Any]) -> Geometry:  # noqa: ANN401
    """The geometry of the images; where the scan does not record its position, that of the series that ``--like`` names."""
    from medrecon.writers import output_geometry

    geometry = problem.geometry
    if geometry.affine is not None or output.like is None:
        return geometry
    index = options.get("slices", slice(None))
    whole = scan.n_slices if "slices" in options else problem.n_slices  # a volume has slices that its scan has not
    shape = (whole, *problem.image_shape[-2:])
    return replace(geometry, affine=output_geometry(scan.geometry, shape, like=output.like, index=index).affine)


@functools.cache
def _prior(name: str | Path) -> PriorSpec:
    """The prior of a bundle, whose network is read once for all cases of a run."""
    from medrecon.bundle import load_prior

    prior = load_prior(name)
    return replace(prior, network=functools.cache(prior.network))


def _about(scan: Any, planned: Any) -> str:  # noqa: ANN401 - a scan, a plan
    """What is going to be done, for the log."""
    matrix = " x ".join(map(str, planned.problem.image_shape[1:]))
    return f"{scan.format}, {planned.problem.n_items} of {matrix} pixels by {planned.solver}"


def _found(record: Mapping[str, Any]) -> str:
    """What was found in the data, for the log."""
    names = (
        "noise_std",
        "noise_source",
        "maps_source",
        "acceleration",
        "relative_residual",
        "residual_over_noise",
        "device",
    )
    return ", ".join(f"{name.replace('_', ' ')} {record[name]}" for name in names if record.get(name) is not None)


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a case that is done."""
    kept = ("network_evaluations", "acceleration", "residual_over_noise", "seconds", "warnings")
    bundle = record.get("bundle")
    return {
        "solver": record["solver"]["name"],
        "weights_sha256": None if bundle is None else bundle["weights_sha256"],
        **{name: record[name] for name in kept if name in record},
    }


def sentence(facts: Mapping[str, Any]) -> str:
    """Of a case that is done, on one line."""
    acceleration = f"acceleration {facts['acceleration']:.2f}, " if "acceleration" in facts else ""
    return (
        f"{facts['solver']}, {facts['network_evaluations']} network evaluations, {acceleration}{facts['seconds']:.1f} s"
    )


def begin_run() -> None:
    """Forget what an earlier run in this process has read: its files may have changed."""
    _like.cache_clear()
    _prior.cache_clear()


def run(arguments: argparse.Namespace) -> int:
    """One scan as it is; or several, of which those that fail are reported and the others done."""
    from medrecon.cli.options import Progress, set_up

    begin_run()
    select = dict(arguments.select)
    cases = several_cases(arguments.input, select, Path(arguments.output))
    if cases is not None:
        from medrecon.cli.several import reconstruct_all

        return reconstruct_all(arguments, cases)
    if arguments.workers is not None or arguments.dask:
        raise InputError("--workers and --dask are for several scans; leave them out")
    set_up(arguments)
    path = Path(arguments.input[0])
    with Progress(path.stem) as progress:
        facts = reconstruct(
            arguments, Case(path=path, stem="", folder=path.resolve().parent.name, select=select), progress=progress
        )
    if arguments.json:
        print(json.dumps(facts, indent=2))
    elif facts["status"] == "planned":
        print(f"{facts['files'][0]}: would be made by {facts['solver']}")
    else:
        print(f"{facts['files'][0]}: {sentence(facts)}")
    return 0
