"""Reconstruct undersampled k-space with a diffusion prior or a classical solver."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """IN, -o and everything else."""
    from medrecon.cli.options import add_compute, add_select, choice
    from medrecon.writers import WRITERS, all_parts

    parser.add_argument(
        "input", metavar="IN", help="raw k-space: .h5 or .mrd (fastMRI, ISMRMRD), .cfl/.hdr, .mat, .npz, .npy"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder of the image and its sidecar")
    parser.add_argument(
        "--bundle", default="brain_mri", help="name or folder of the prior's bundle (default: brain_mri)"
    )
    parser.add_argument("--solver", default="dds", help="see 'medrecon solvers' (default: dds)")
    parser.add_argument("--steps", type=int, metavar="N", help="network evaluations per sample (default: the bundle's)")
    parser.add_argument("--samples", type=int, default=1, metavar="K", help="posterior samples (default: 1)")
    parser.add_argument("--maps", metavar="FILE", help="coil sensitivities, array 'maps' (default: ESPIRiT)")
    parser.add_argument(
        "--mask", metavar="FILE", help="sampling mask, array 'mask' (default: the file's, else zeros tell)"
    )
    parser.add_argument(
        "--slices", type=_slices, default=slice(None), metavar="A:B", help="slices A to B-1 (default: all)"
    )
    parser.add_argument("--noise-std", type=float, metavar="S", help="noise per real component (default: estimated)")
    parser.add_argument(
        "--format",
        default="nifti",
        choices=tuple(WRITERS),
        help="of the image (default: nifti)",
    )
    parser.add_argument("--part", default="mag", choices=all_parts(), help="what NIfTI files hold (default: mag)")
    parser.add_argument(
        "--bids", metavar="NAME", help="name NIfTI files as BIDS derivatives, e.g. sub-01_acq-mprage_T1w"
    )
    parser.add_argument(
        "--like",
        metavar="SERIES",
        help="DICOM series whose patient, study and, if need be, positions --format dicom copies",
    )
    parser.add_argument(
        "--like-select", type=choice, action="append", default=[], metavar="NAME=VALUE",
        help="of several series or volumes in --like, as --select; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--deidentify", action="store_true", help="take from --like what the Basic profile of DICOM PS3.15 leaves"
    )
    parser.add_argument("--whiten", action="store_true", help="make the coils' noise independent, by the noise scan")
    parser.add_argument("--compress", type=int, metavar="N", help="combine the coils to N virtual ones (SVD)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="solver.NAME=VALUE", help="a setting of the solver; repeatable"
    )
    parser.add_argument("--condition", metavar="LABEL", help="tell the prior what it sees, e.g. T1 (default: nothing)")
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W", help="how much the condition counts (default: 1)"
    )
    parser.add_argument(
        "--start", metavar="SOLVER", help="begin with the estimate of a solver without a prior, e.g. cg-sense"
    )
    parser.add_argument("--start-sigma", type=float, metavar="S", help="noise level of that beginning, e.g. 0.1")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing outputs, and what else their sidecar lists"
    )
    add_select(parser)
    add_compute(parser)


def _slices(text: str) -> slice:
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B") from None
    return slice(first, last)


def _settings(pairs: list[str]) -> dict[str, object]:
    from medrecon.cli.options import value
    from medrecon.data.errors import InputError

    settings = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        group, dot, key = name.partition(".")
        if not (equals and dot and key and group == "solver"):
            raise InputError(f"--set {pair}: expected solver.NAME=VALUE, e.g. --set solver.gamma=5")
        settings[key] = value(text)
    return settings


def run(arguments: argparse.Namespace) -> None:
    """Load, reconstruct, write."""
    from dataclasses import replace

    from medrecon.data.coils import compress_coils, noise_covariance, prewhiten
    from medrecon.data.errors import InputError, warn
    from medrecon.data.noise import noise_level
    from medrecon.data.sampling import common_mask, rounding, sampling_mask
    from medrecon.data.scan import Geometry
    from medrecon.formats import load_array, load_kspace
    from medrecon.posterior import Reconstruction
    from medrecon.writers import Output, check, like_series, place, write

    settings = _settings(arguments.set)
    if arguments.samples < 1 or (arguments.steps is not None and arguments.steps < 1):
        raise InputError("--samples and --steps must be at least 1")
    if arguments.maps and (arguments.whiten or arguments.compress):
        raise InputError("--maps belong to the coils as they were measured; leave out --whiten and --compress")
    data = load_kspace(arguments.input, dict(arguments.select))
    stored = load_array(arguments.mask, "mask") if arguments.mask else None
    if stored is not None:  # which is what the warning of rounding asks for
        asked = rounding(data.path, data.kspace)
        data = replace(data, warnings=tuple(text for text in data.warnings if text not in asked))
    for text in data.warnings:
        warn(text)
    like = like_series(arguments.like, dict(arguments.like_select), arguments.format)
    doubts = () if like is None else like.warnings
    output = Output(
        folder=arguments.output,
        stem=data.stem,
        format=arguments.format,
        overwrite=arguments.overwrite,
        part=arguments.part,
        like=like,
        deidentify=arguments.deidentify,
        bids=arguments.bids,
        label=arguments.solver,
        sources=[path for path in (data.path, arguments.maps, arguments.mask) if path],
    )
    shape = (len(data.kspace), *data.kspace.shape[2:])
    geometry = place(Geometry(data.spacing, data.affine), shape, like, arguments.slices)
    slices = len(range(shape[0])[arguments.slices])
    check(output, slices=slices, samples=arguments.samples > 1, geometry=geometry)
    # Before coils are mixed, which hides what one of them lacks.
    measured = data.mask
    if stored is not None:
        measured = sampling_mask(data.kspace, stored, str(data.path), arguments.mask, alike=False)
        left = rounding(data.path, data.kspace * measured)
        data = replace(data, warnings=data.warnings + left)
        for text in left:
            warn(text)
    mask = common_mask(data.kspace[arguments.slices], measured, str(data.path))
    more: dict[str, object] = {}
    given = "given"
    if arguments.whiten:
        if data.noise_scan is None:
            raise InputError(f"{data.path}: holds no usable noise scan, which --whiten needs; leave --whiten out")
        white, std = prewhiten(data.kspace, noise_covariance(data.noise_scan, str(data.path)), str(data.path))
        data = replace(data, kspace=white, noise_scan=None)
        more["whitened"] = True
        if arguments.noise_std is None:
            arguments.noise_std, given = std, "noise scan"
    if arguments.compress is not None:
        fewer, share = compress_coils(data.kspace, mask, arguments.compress, name=str(data.path))
        data = replace(data, kspace=fewer, noise_scan=None)
        more |= {"virtual_coils": fewer.shape[1], "coil_energy": round(share, 6)}
    maps = load_array(arguments.maps, "maps") if arguments.maps else None
    if maps is not None and maps.shape not in (data.kspace.shape, data.kspace.shape[1:]):
        raise InputError(
            f"{arguments.maps}: the maps have shape {maps.shape}, but {data.path} holds {data.kspace.shape} "
            "(slices, coils, y, x); give one map per coil, of the same matrix"
        )
    noise_std, noise_source = arguments.noise_std, given
    if noise_std is None:
        noise_std, noise_source = noise_level(data.kspace * measured, measured, data.noise_scan)

    from medrecon.cli.options import Progress, set_up

    set_up(arguments)
    from medrecon.reconstruction import reconstruct

    with Progress(data.stem) as progress:
        result = reconstruct(
            data.kspace,
            mask,
            maps,
            arguments.bundle,
            arguments.solver,
            steps=arguments.steps,
            samples=arguments.samples,
            seed=arguments.seed,
            noise_std=noise_std,
            noise_source=noise_source,
            settings=settings,
            condition=arguments.condition,
            guidance=arguments.guidance,
            start=arguments.start,
            start_sigma=arguments.start_sigma,
            slices=arguments.slices,
            device=arguments.device,
            name=str(data.path),
            progress=progress,
        )
    record = {
        **result.record,
        "input": str(data.path),
        "warnings": [*data.warnings, *doubts, *result.record["warnings"]],
        "spacing_mm": data.spacing,
        **more,
    }
    made = Reconstruction(
        image=result.image, samples=result.samples, record=record, phase=result.phase, geometry=geometry
    )
    paths = write(made, output)
    print(
        f"{paths[0]}: {arguments.solver}, {record['network_evaluations']} network evaluations, "
        f"acceleration {record['acceleration']:.2f}, {record['seconds']:.1f} s"
    )
