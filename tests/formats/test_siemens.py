"""The sign convention of Siemens: markers whose samples follow from physics are where they were planted, by the affine.

A point at r (LPS) has samples exp(+2 pi i k (r - position)) in Siemens data and exp(-2 pi i k (r - position)) by the ISMRMRD
convention, with k along the directions that the headers hold.
"""

import ismrmrd
import nibabel as nib
import numpy as np
import pytest
import torch

from medrecon.cli import main
from medrecon.data.coils import combine_coils, from_kspace
from medrecon.formats import load_image, load_kspace, load_noncartesian
from medrecon.operators.nufft import NUFFT
from tests.make import twix as make_twix
from tests.make.ismrmrd import header, line, rotation, write

COILS = 2
PIXEL = np.array([2.0, 3.0, 4.0])  # readout, phase, partition
MIDDLE = np.array([-7.0, 8.0, 29.0])
MARKERS = (np.array([5, 3, 1]), np.array([-4, 2, -2]), np.array([1, -4, 2]))
HEIGHTS = (1.0, 0.8, 0.6)
VENDORS = [("SIEMENS", 1), ("Siemens Healthineers", 1), ("siemens", 1), ("GE Healthcare", -1), (None, -1)]


def places(dirs, axes=3):
    """Of the markers, LPS in mm, for directions of readout, phase and partition in the rows."""
    return [MIDDLE + dirs[:axes].T @ (offset[:axes] * PIXEL[:axes]) for offset in MARKERS]


def signal(where, points, sign):
    """Samples of the markers at ``where`` for ``points`` ``(..., 3)`` of k-space, LPS, cycles/mm: the sum itself."""
    waves = [h * np.exp(sign * 2j * np.pi * points @ (r - MIDDLE)) for h, r in zip(HEIGHTS, where, strict=True)]
    return np.broadcast_to(sum(waves), (COILS, *points.shape[:-1]))


def grid(shape, dirs):
    """Points of k-space ``(readout, phase, partition, 3)``, LPS, cycles/mm; the centre is at n // 2."""
    steps = [(np.arange(n) - n // 2) / (n * p) for n, p in zip(shape, PIXEL, strict=True)]
    return np.stack(np.meshgrid(*steps, indexing="ij"), -1) @ dirs


def found(image, affine):
    """LPS of the brightest voxels of ``(slices, y, x)``, brightest first."""
    brightest = np.argsort(np.abs(image).ravel())[::-1][: len(HEIGHTS)]
    z, y, x = np.unravel_index(brightest, image.shape)
    ras = affine @ np.stack([x, y, z, np.ones_like(x)]).astype(float)
    return (ras[:3] * [[-1], [-1], [1]]).T


def marked(path, vendor, kspace, dirs, keep=None, recon=None, position=MIDDLE):
    """An ISMRMRD file of ``kspace`` ``(coils, readout, phase, partition)``."""
    shape = kspace.shape[1:]
    xml = header(shape, shape * PIXEL, recon=recon)
    xml.acquisitionSystemInformation.systemVendor = vendor
    keep = np.ones(shape[1:], bool) if keep is None else keep
    lines = [
        line(kspace[:, :, y, z], dirs=dirs, position=position, kspace_encode_step_1=y, kspace_encode_step_2=z)
        for y, z in zip(*np.nonzero(keep), strict=True)
    ]
    return write(path, xml, lines)


@pytest.mark.parametrize(("vendor", "sign"), VENDORS)
@pytest.mark.parametrize("phases", [12, 13])
def test_markers_in_an_ismrmrd_slab(tmp_path, vendor, sign, phases):
    dirs = rotation(3)
    where = places(dirs)
    k = signal(where, grid((32, phases, 8), dirs), sign)
    recon = ((16, phases, 8), np.array([16, phases, 8]) * PIXEL)
    data = load_kspace(marked(tmp_path / "a.h5", vendor, k, dirs, recon=recon))
    assert data.kspace.shape == (16, COILS, phases, 8)
    # Voxels are 2 to 4 mm, so 0.1 mm leaves no room for half a voxel; the rest is float32 of the headers.
    assert np.abs(found(from_kspace(data.kspace)[:, 0], data.affine) - where).max() < 0.1


@pytest.mark.parametrize(("vendor", "sign"), VENDORS)
def test_markers_in_an_ismrmrd_slice(tmp_path, vendor, sign):
    dirs = rotation(7)
    where = places(dirs, 2)
    k = signal(where, grid((16, 13, 1), dirs), sign)
    data = load_kspace(marked(tmp_path / "a.h5", vendor, k, dirs))
    assert np.abs(data.affine[:3, 2] * [-1, -1, 1] - 4.0 * dirs[2]).max() < 1e-5  # the slice direction is not encoded
    assert np.abs(found(from_kspace(data.kspace)[:, 0], data.affine) - where).max() < 0.1


def test_partial_fourier_in_a_slab(tmp_path):
    dirs = rotation(4)
    where = places(dirs)
    keep = np.ones((12, 8), bool)
    keep[:3], keep[:, :2] = False, False
    k = signal(where, grid((16, 12, 8), dirs), 1)
    data = load_kspace(marked(tmp_path / "a.h5", "SIEMENS", k, dirs, keep))
    assert np.array_equal(data.mask, keep)
    assert np.abs(found(from_kspace(data.kspace)[:, 0], data.affine) - where).max() < 0.1


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(("vendor", "sign"), VENDORS[:1] + VENDORS[3:4])
def test_slices_of_a_stack_are_not_encoded(tmp_path, vendor, sign, order):
    """Each marker in a slice of its own, whose position the header holds; only the axes in the plane are turned."""
    dirs, gap = rotation(5), 6.0
    xml = header((16, 12, 1), (32, 36, 5))
    xml.acquisitionSystemInformation.systemVendor = vendor
    inside, lines, where = grid((16, 12, 1), dirs), [], []
    for n, offset in enumerate(MARKERS):
        where.append(MIDDLE + gap * n * dirs[2] + dirs[:2].T @ (offset[:2] * PIXEL[:2]))
        k = HEIGHTS[n] * np.exp(sign * 2j * np.pi * inside @ (where[n] - MIDDLE))[None, ..., 0]
        lines += [
            line(k[..., y], dirs=dirs, position=MIDDLE + gap * n * dirs[2], kspace_encode_step_1=y, slice=order[n])
            for y in range(12)
        ]
    data = load_kspace(write(tmp_path / "a.h5", xml, lines))
    assert np.abs(found(from_kspace(data.kspace)[:, 0], data.affine) - where).max() < 0.1


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("vendor", "sign"), VENDORS)
def test_markers_off_the_grid(tmp_path, vendor, sign, axes):
    """Samples at random places in k-space; the trajectory is stored along the header's directions."""
    dirs, shape = rotation(6), (16, 12, 8 if axes == 3 else 1)
    where = places(dirs, axes)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 50, axes)).astype(np.float32)
    k = signal(where, (points / PIXEL[:axes]) @ dirs[:axes], sign)
    xml = header(shape, shape * PIXEL, kind="other")
    xml.acquisitionSystemInformation.systemVendor = vendor
    lines = []
    for shot in range(len(points)):
        one = ismrmrd.Acquisition.from_array(np.ascontiguousarray(k[:, shot], np.complex64), points[shot])
        one.position[:], one.idx.kspace_encode_step_1 = MIDDLE, shot
        one.read_dir[:], one.phase_dir[:], one.slice_dir[:] = dirs
        lines.append(one)
    data = load_noncartesian(write(tmp_path / "a.h5", xml, lines))
    A = NUFFT(torch.from_numpy(data.trajectory[0]), data.matrix)
    image = A.adjoint(torch.from_numpy(data.samples[0]).flatten(1)[None])[0, 0].numpy()
    assert np.abs(found(image.reshape(-1, *data.matrix[-2:]), data.affine) - where).max() < 0.1


@pytest.mark.parametrize("partitions", [8, 1])
def test_markers_in_a_twix_file(tmp_path, partitions):
    turn = make_twix.TURN.as_matrix()
    dirs = turn[:, [1, 0, 2]].T  # the rotation's columns are phase, readout, slice
    where = places(dirs, 3 if partitions > 1 else 2)
    k = signal(where, grid((32, 12, partitions), dirs), 1).astype(np.complex64)
    fields = {"dReadoutFOV": 32.0, "dPhaseFOV": 36.0, "dThickness": 4.0 * partitions}
    hdr = make_twix.header(
        16, 12, partitions, 4 if partitions > 1 else 2,
        **{f"sSliceArray.asSlice[0].{key}": value for key, value in fields.items()},
    )  # fmt: skip
    lines = [
        make_twix.line(k[..., y, z], lin=y, par=z, centre=(6, partitions // 2), column=16, position=MIDDLE)
        for y in range(12) for z in range(1 if partitions > 1 else 0, partitions)
    ]  # fmt: skip
    data = load_kspace(make_twix.write(tmp_path / "a.dat", lines, hdr))
    assert data.spacing == pytest.approx((2.0, 3.0, 4.0) if partitions > 1 else (4.0, 2.0, 3.0))
    assert np.abs(found(from_kspace(data.kspace)[:, 0], data.affine) - where).max() < 0.1


def test_one_scan_in_two_files(data_folder, tmp_path):
    """The scanner's own file and that of the vendor's converter: one affine, one image, in NIfTI and DICOM as well."""
    folder = data_folder / "kspace" / "siemens"
    if not (folder / "gre_real.mrd").is_file():
        pytest.skip(f"no {folder / 'gre_real.mrd'}")
    first, second = (load_kspace(folder / name) for name in ("gre.dat", "gre_real.mrd"))
    # The headers hold float32 numbers up to 54 mm, whose rounding is 4e-6 mm; the converter computes directions in float32.
    assert np.abs(first.affine - second.affine).max() < 1e-5
    one, two = (combine_coils(data.kspace) for data in (first, second))
    assert np.abs(one - two).max() <= 1e-6 * one.max()
    outputs = []
    for name in ("gre.dat", "gre_real.mrd"):
        out, command = tmp_path / name, ["recon", str(folder / name), "--solver", "zero-filled"]
        assert main([*command, "-o", str(out / "n")]) == 0
        assert main([*command, "-o", str(out / "d"), "--format", "dicom"]) == 0
        outputs.append(nib.load(next((out / "n").glob("*.nii.gz"))))
        series = load_image(next(p for p in (out / "d").iterdir() if p.is_dir()))
        assert np.abs(series.affine - outputs[-1].affine).max() < 1e-3
    assert np.abs(outputs[0].affine - outputs[1].affine).max() < 1e-5
    assert np.abs(outputs[0].get_fdata() - outputs[1].get_fdata()).max() <= 1e-6 * outputs[0].get_fdata().max()
