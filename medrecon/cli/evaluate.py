"""Compare a reconstruction with fully sampled data: PSNR, SSIM, NMSE."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECON, --reference, --select, --fit-scale, --json."""
    from medrecon.cli.options import add_select

    parser.add_argument("reconstruction", metavar="RECON", help=".h5 or .nii.gz that 'medrecon recon' wrote")
    parser.add_argument("--reference", required=True, metavar="FULL", help="fully sampled k-space of the same slices")
    parser.add_argument(
        "--fit-scale", action="store_true", help="first scale the image to the reference (least squares)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_select(parser)


def _image(path: str):  # noqa: ANN202 - numpy is imported inside
    """Magnitude ``(slices, y, x)`` of either output format."""
    from pathlib import Path

    from medrecon.formats import load_array, load_image
    from medrecon.formats.nifti import is_nifti

    return load_image(path).array if is_nifti(Path(path)) else load_array(path, "reconstruction")


def _magnitude(path: str):  # noqa: ANN202 - numpy is imported inside
    """What :func:`_image` reads, the magnitude of complex numbers.

    Raises:
        InputError: for negative numbers, which no magnitude has.
    """
    import numpy as np

    from medrecon.data.errors import InputError

    image = _image(path)
    image = np.abs(image) if np.iscomplexobj(image) else image
    if (image < 0).any():
        raise InputError(f"{path}: holds negative numbers, so it is not a magnitude image; give the magnitude")
    return image.astype(np.float32)


def run(arguments: argparse.Namespace) -> None:
    """Print the scores."""
    import json
    import re
    from pathlib import Path

    import numpy as np

    from medrecon.data.errors import InputError, warn
    from medrecon.data.espirit import combined_reference
    from medrecon.data.files import not_described
    from medrecon.data.sampling import one_sided, undersampled
    from medrecon.formats import load_kspace

    image = _magnitude(arguments.reconstruction)
    where = Path(arguments.reconstruction)
    problem = not_described(where, where.with_name(re.sub(r"(\.nii)?\.[^.]+$", "", where.name) + ".json"))
    if problem is not None:
        warn(problem)
    full = load_kspace(arguments.reference, dict(arguments.select))
    for text in full.warnings:
        warn(text)
    if undersampled(full.kspace, full.mask):
        raise InputError(f"{full.path}: is undersampled itself; give a fully sampled reference")
    for text in one_sided(full.kspace, full.mask, str(full.path)):
        warn(text)
    slices, _, y, x = full.kspace.shape
    if image.shape != (slices, y, x):
        raise InputError(
            f"{arguments.reconstruction}: shape {image.shape}, but {full.path} is {(slices, y, x)} (slices, y, x); "
            "reconstruct all slices on the full matrix"
        )
    if not np.isfinite(image).all():
        raise InputError(f"{arguments.reconstruction}: holds NaN or Inf; reconstruct again")

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from medrecon.metrics import scores

    reference = combined_reference(full.kspace)
    if arguments.fit_scale:
        unit = image / (image.max() or 1.0)  # squares of very large or small numbers are no numbers
        image = unit * float((unit * reference.astype(np.float64)).sum() / max((unit**2).sum(), 1e-30))
    result = scores(image, reference)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"PSNR {result['psnr']:.2f} dB, SSIM {result['ssim']:.3f}, NMSE {result['nmse']:.4f}")
