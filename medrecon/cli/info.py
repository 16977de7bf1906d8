"""Show what raw k-space or an image holds: shape, sampling, voxel size, orientation."""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE, --select and --json."""
    from medrecon.cli.options import add_select

    parser.add_argument(
        "file",
        metavar="FILE",
        help="raw k-space: .h5 or .mrd (fastMRI, ISMRMRD), .cfl/.hdr, .dat, .mat, .npz, .npy; images: .nii, DICOM file or folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_select(parser)


def _summary(name: str, select: dict) -> dict:
    """Of whatever it is."""
    from pathlib import Path

    from medrecon.data.errors import NotCartesianError
    from medrecon.data.kspace import FORMATS, load_kspace

    path = Path(name)
    if path.is_dir() or (path.is_file() and path.suffix.lower() not in FORMATS):
        from medrecon.data.images import load_image

        return load_image(path, select).summary()
    try:
        return load_kspace(path, select).summary()
    except NotCartesianError:
        from medrecon.data.noncartesian import load_noncartesian

        return load_noncartesian(path, select=select).summary()


def run(arguments: argparse.Namespace) -> None:
    """Print the summary."""
    import json

    summary = _summary(arguments.file, dict(arguments.select))
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
