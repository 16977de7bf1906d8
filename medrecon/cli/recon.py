"""Reconstruct a scan (k-space, sinogram, image) with a diffusion prior or a classical solver."""

from __future__ import annotations

import argparse
from typing import Any

from medrecon.settings import (
    CartesianPhysics,
    DynamicPhysics,
    ImagePhysics,
    NonCartesianPhysics,
    PriorSettings,
    SamplingSettings,
    TomographyPhysics,
)

__all__ = ["add_arguments", "run"]

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
    "pitch": ("MM", float, "distance between detector pixels of a sinogram (default: the file's)"),
    "centre": ("P", float, "detector pixel of the rotation axis, from 0 (default: the file's)"),
    "axis_convention": ("NAME", str, "rotation axis of an even detector: middle (astra) or pixel (scikit-image)"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN, -o and everything else."""
    from medrecon.cli.options import add_compute, add_select, add_settings

    parser.add_argument("input", metavar="IN", help="a scan: k-space, sinogram, or images (see 'medrecon info IN')")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the image and its sidecar")
    add_settings(parser, SETTINGS)
    reading = parser.add_argument_group("reading")
    add_select(reading)
    reading.add_argument("--dynamic", metavar="AXIS", help="frames as one problem: phase, repetition, set or contrast")
    for name, (metavar, kind, about) in COMPANIONS.items():
        reading.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, type=kind, help=about)
    _add_output(parser.add_argument_group("output"))
    add_compute(parser)


def _add_output(group: argparse._ArgumentGroup) -> None:
    from medrecon.cli.options import choice
    from medrecon.writers import WRITERS, all_parts

    group.add_argument("--format", default="nifti", choices=tuple(WRITERS), help="of the image (default: nifti)")
    group.add_argument("--part", default="mag", choices=all_parts(), help="what NIfTI files hold (default: mag)")
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


def _load(arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - a scan
    """The scan, with its companions."""
    from medrecon.cli.options import numbers
    from medrecon.formats import Companions, load

    given = {name: getattr(arguments, name) for name in COMPANIONS}
    if given["matrix"] is not None:
        given["matrix"] = numbers("--matrix", given["matrix"])
    return load(
        arguments.input,
        dict(arguments.select),
        companions=Companions(**given),
        frames=arguments.dynamic,
    )


def run(arguments: argparse.Namespace) -> None:
    """Load, plan, check the output, run, write."""
    from dataclasses import replace

    from medrecon.cli.options import Progress, given_settings, set_up
    from medrecon.posterior import as_device
    from medrecon.reconstruction import plan
    from medrecon.writers import Output, check, like_series, place, write

    set_up(arguments)
    device = as_device(arguments.device)
    options = given_settings(arguments, SETTINGS)
    like = like_series(arguments.like, dict(arguments.like_select), arguments.format)
    output = Output(
        folder=arguments.output,
        stem="",
        format=arguments.format,
        overwrite=arguments.overwrite,
        part=arguments.part,
        like=like,
        deidentify=arguments.deidentify,
        bids=arguments.bids,
        label=options.get("solver", "dds"),
    )
    scan = _load(arguments)
    files = [options[name] for name in ("maps", "mask") if name in options]
    output = replace(output, stem=scan.stem, sources=[scan.path, *files])
    planned = plan(scan, **options)
    problem = planned.problem
    geometry = problem.geometry
    if geometry.affine is None and like is not None:
        index = options.get("slices", slice(None))
        whole = scan.n_slices if "slices" in options else problem.n_slices  # a volume has slices that its scan has not
        shape = (whole, *problem.image_shape[-2:])
        geometry = replace(geometry, affine=place(scan.geometry, shape, like, index).affine)
    paths = check(
        output,
        slices=problem.n_slices,
        samples=planned.sampling.n_samples > 1,
        geometry=geometry,
        phase=not problem.real,
        frames=problem.has_frames,
    )
    with Progress(scan.stem) as progress:
        result = replace(planned.run(device, progress), geometry=geometry)
    if like is not None and like.warnings:
        result = replace(result, record={**result.record, "warnings": [*result.record["warnings"], *like.warnings]})
    write(result, output)
    record = result.record
    acceleration = f"acceleration {record['acceleration']:.2f}, " if "acceleration" in record else ""
    print(
        f"{paths[0]}: {record['solver']['name']}, {record['network_evaluations']} network evaluations, {acceleration}"
        f"{record['seconds']:.1f} s"
    )
