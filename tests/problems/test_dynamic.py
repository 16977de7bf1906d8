"""Frames: against single scans, the low-rank solver, files."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon.data.errors import InputError
from medrecon.data.scan import DynamicScan, Geometry
from medrecon.writers import WRITERS, Output, write
from medrecon.writers.nifti import nifti_bytes

from ..make.compare import relative_error
from ..make.toys import SHAPE, cartesian, columns, frames, solve


def test_one_frame_is_a_cartesian_scan():
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    mask = np.broadcast_to(scan.mask, (1, *SHAPE))
    frames = DynamicScan(path=scan.path, format="toy", kspace=scan.kspace[None], mask=mask, axis="phase")
    one = solve(scan, physics={"maps": maps, "noise_std": 0.01})
    other = solve(frames, physics={"maps": maps, "noise_std": 0.01})
    assert other.image.shape == (1, 2, *SHAPE)
    assert relative_error(other.image[0], one.image) < 1e-5


def test_frames_with_their_own_masks():
    """A still object under shifting masks: the low-rank solver uses all frames' samples for each."""
    shape, full = SHAPE, cartesian(noise=0.002)
    scan, truth, maps = full
    masks = []
    for k in range(4):
        mask = np.zeros(shape, bool)
        mask[:, k::4] = True
        mask[:, 12:19] = True
        masks.append(mask)
    kspace = np.stack([scan.kspace * mask for mask in masks])
    frames = DynamicScan(path=scan.path, format="toy", kspace=kspace, mask=np.stack(masks), axis="phase")
    found = solve(frames, "low-rank", physics={"maps": maps, "noise_std": 0.002}, settings={"n_iter": 200})
    single = solve(replace(scan, kspace=scan.kspace * masks[0], mask=masks[0]), "cg-sense", physics={"maps": maps})
    assert relative_error(found.image[0], np.abs(truth)) < 0.5 * relative_error(single.image, np.abs(truth))


def test_a_mask_of_frames_claims_no_zeros():
    """Samples that were not measured are no data."""
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    with pytest.raises(InputError, match="samples that are zero"):
        solve(frames(scan), physics={"maps": maps})


@pytest.mark.parametrize("format", list(WRITERS))
def test_frames_are_written_or_refused(format, tmp_path):
    scan = frames(cartesian(noise=0.01)[0], affine=np.diag([2.0, 2.0, 3.0, 1.0]))
    found = solve(scan, "dds", steps=1, samples=2)
    output = Output(folder=tmp_path, stem="a", format=format, sources=["a.npz"])
    if format not in ("nifti", "h5", "npz"):
        with pytest.raises(InputError, match="choose nifti or h5 or npz"):
            write(found, output)
        return
    write(found, output)


def test_frames_are_the_fourth_axis_and_samples_the_fifth():
    import gzip

    import nibabel as nib

    samples = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    stored = nib.Nifti1Image.from_bytes(gzip.decompress(nifti_bytes(samples, Geometry())))
    assert stored.shape == (6, 5, 4, 3, 2)
    assert np.array_equal(stored.get_fdata(), samples.T)
