"""Print shape, sampling, voxel size and orientation of a scan or an image."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``FILE``, ``--select`` and ``--json``."""
    from medrecon.cli.options import add_json, add_select

    parser.add_argument(
        "file",
        metavar="FILE",
        help="k-space (.h5 or .mrd of fastMRI or ISMRMRD, .cfl, .dat, .mat, .npz, .npy), a sinogram (.npz, .h5) or an image "
        "(.nii, DICOM)",
    )
    add_json(parser)
    add_select(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the summary."""
    import json

    from medrecon.formats import load

    summary = load(arguments.file, dict(arguments.select)).summary()
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return
    for key, value in summary.items():
        if key == "attributes":
            for name, attribute in value.items():
                print(f"  {name}: {attribute}")
        elif key == "warnings":
            for text in value:
                print(f"warning: {text}")
        else:
            if key in ("matrix", "acs"):
                value = f"{' x '.join(map(str, value))} ({'z y x'[-2 * len(value) + 1 :]})"
            elif key == "spacing_mm":
                value = "not in the file" if value is None else f"{' x '.join(map(str, value))} (z y x)"
            elif key == "range":
                value = f"{value[0]:g} ... {value[1]:g}"
            elif isinstance(value, bool):
                value = "yes" if value else "no"
            print(f"{key.replace('_', ' ')}: {value}")
