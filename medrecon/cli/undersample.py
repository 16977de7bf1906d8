"""Undersample raw k-space retrospectively, to compare reconstructions with the fully sampled image."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``IN``, ``-o`` and the parameters of the mask."""
    from medrecon.cli.options import add_json, add_select, seed

    parser.add_argument("input", metavar="IN", help="fully sampled k-space in a format that recon reads")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT.h5",
        help="output file, in the fastMRI layout with a dataset 'mask'",
    )
    parser.add_argument(
        "--kind",
        default="gaussian1d",
        help="sampling pattern: equispaced, random or gaussian1d (columns), gaussian2d, poisson, radial or spiral (points) "
        "(default: gaussian1d)",
    )
    parser.add_argument("--accel", type=float, default=4.0, help="acceleration factor, including the ACS (default: 4)")
    parser.add_argument(
        "--acs", type=int, default=24, help="fully sampled central columns, or size of the central square (default: 24)"
    )
    parser.add_argument("--seed", type=seed, default=0, help="random seed of the mask (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    add_json(parser)
    add_select(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the undersampled file."""
    import json
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from medrecon.data.errors import InputError, warn
    from medrecon.data.files import check_writable
    from medrecon.data.masks import achieved_acceleration, undersampling_mask
    from medrecon.data.sampling import one_sided_warnings, undersampled
    from medrecon.formats import load_kspace, save_fastmri

    output = Path(arguments.output)
    if output.suffix.lower() not in (".h5", ".hdf5"):
        raise InputError(f"{output}: the output is an HDF5 file; name it {output.stem}.h5")
    full = load_kspace(arguments.input, dict(arguments.select))
    for text in full.warnings:
        warn(text)
    if output.exists() and output.samefile(full.path):
        raise InputError(f"{output}: would replace its own input; choose another name")
    check_writable([output], arguments.overwrite)
    try:
        mask = undersampling_mask(
            full.kspace.shape[-2:], arguments.kind, accel=arguments.accel, acs=arguments.acs, seed=arguments.seed
        )
    except ValueError as error:
        raise InputError(f"{full.path}: {error}") from error
    if undersampled(full.kspace, full.mask):
        raise InputError(
            f"{full.path}: is undersampled already (acceleration {achieved_acceleration(full.mask):.2f}); "
            "give fully sampled data"
        )
    for text in one_sided_warnings(full.kspace, full.mask, str(full.path)):
        warn(text)
    mask = np.logical_and(mask, full.mask)  # zero padding was not sampled
    attributes = {**full.attributes, "mask_kind": arguments.kind, "mask_seed": arguments.seed}
    save_fastmri(
        output, replace(full, kspace=full.kspace * mask, mask=mask, attributes=attributes), arguments.overwrite
    )
    facts = {"output": str(output), "acceleration": achieved_acceleration(mask), "sampled": int(mask.sum())}
    if arguments.json:
        print(json.dumps({**facts, "positions": mask.size}, indent=2))
    else:
        print(f"{output}: acceleration {facts['acceleration']:.3f}, {facts['sampled']} of {mask.size} sampled")
