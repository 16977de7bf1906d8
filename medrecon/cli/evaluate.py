"""Compute PSNR, SSIM, NMSE and RMSE of a reconstruction against fully sampled k-space or a reference volume."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``RECON``, ``--reference``, ``--select``, ``--fit-scale`` and ``--json``."""
    from medrecon.cli.options import add_json, add_select

    parser.add_argument(
        "reconstruction",
        metavar="RECON",
        help="reconstructed image: .nii, .nii.gz, .h5 with a dataset 'reconstruction', .mrd, DICOM file or folder",
    )
    parser.add_argument(
        "--reference",
        required=True,
        metavar="REF",
        help="fully sampled k-space of the same slices, or a volume in one of the formats of RECON (in HU for CT)",
    )
    parser.add_argument(
        "--fit-scale", action="store_true", help="scale the image to the reference by least squares first"
    )
    add_json(parser)
    add_select(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the scores."""
    import json
    import warnings

    import numpy as np

    from medrecon.data.errors import InputError, SelectionError, warn
    from medrecon.volumes import check_pair, load_reference, load_volume

    try:
        image = load_volume(arguments.reconstruction)
    except SelectionError as error:
        raise InputError(
            f"{arguments.reconstruction}: contains several volumes or series; give a file or folder with a single one"
        ) from error
    for text in image.warnings:
        warn(text)
    reference = load_reference(arguments.reference, dict(arguments.select))
    for text in reference.warnings:
        warn(text)
    in_hu = check_pair(image, reference)
    if in_hu and arguments.fit_scale:
        raise InputError("--fit-scale is for magnitude images, since HU have a fixed scale; leave it out")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medrecon.metrics import hounsfield_scores, magnitude_scores

    values = image.array
    if arguments.fit_scale:
        unit = values / (values.max() or 1.0)  # avoids overflow of squares
        truth = reference.array.astype(np.float64)
        values = unit * float((unit * truth).sum() / max((unit**2).sum(), 1e-30))
    result = (hounsfield_scores if in_hu else magnitude_scores)(values, reference.array)
    print(json.dumps(result, indent=2) if arguments.json else _scores_line(result))


def _scores_line(result: dict) -> str:
    """One line with the scores, and the data range of PSNR and SSIM."""
    unit = " HU" if result["hounsfield"] else ""
    data_range = "-1000 to 1000 HU" if unit else f"0 to {result['data_range']:.4g}, the reference's maximum"
    return (
        f"PSNR {result['psnr']:.2f} dB, SSIM {result['ssim']:.3f} (range {data_range}), NMSE {result['nmse']:.4f}, "
        f"RMSE {result['rmse']:.4g}{unit}"
    )
