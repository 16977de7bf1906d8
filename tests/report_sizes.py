"""Sizes of the largest pages, for docs/report.md: ``python -m tests.report_sizes`` (needs MEDRECON_DATA)."""

import os
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from medrecon.data.scan import Geometry
from medrecon.report.gather import case_of_images
from medrecon.report.index import write_index
from medrecon.report.page import page

from .make.cases import record, write_many


def head(noise):
    """Size of the page of a head at 1 mm (176 x 238 x 169) with a spread and flags, and the seconds to make it."""
    image = nib.Nifti1Image.from_filename(Path(os.environ["MEDRECON_DATA"]) / "volumes" / "head_t1_1mm.nii.gz")
    rng = np.random.default_rng(0)
    volume = np.asarray(image.dataobj, np.float32).transpose(2, 1, 0)
    volume = np.hypot(volume + noise * rng.standard_normal(volume.shape), noise * rng.standard_normal(volume.shape))
    spread = rng.gamma(4, 0.02, volume.shape) * (10 + volume)
    maps = {"spread": spread.astype(np.float32), "flags": (spread > 18).astype(np.uint8)}
    case = case_of_images("head", record(), volume.astype(np.float32), maps=maps, geometry=Geometry(None, image.affine))
    start = time.monotonic()
    return len(page(case)), time.monotonic() - start


def many(n):
    """Size of the overview of ``n`` images, and the seconds to write it."""
    with tempfile.TemporaryDirectory() as folder:
        write_many(Path(folder), n)
        start = time.monotonic()
        return write_index(Path(folder)).stat().st_size, time.monotonic() - start


if __name__ == "__main__":
    for noise in (0, 2, 5, 20):
        print("head, noise {} of 127: {:.1f} MB, {:.1f} s".format(noise, *(np.array(head(noise)) / [1e6, 1])))
    for n in (20, 2000):
        print("overview of {} images: {:.2f} MB, {:.1f} s".format(n, *(np.array(many(n)) / [1e6, 1])))
