"""ISMRMRD files of non-Cartesian k-space."""

import ismrmrd
import numpy as np

from medrecon.data.phantom import loop_coils
from tests.make.ismrmrd import header, line

DIRS = np.array([[0.8, 0.6, 0], [-0.6, 0.8, 0], [0, 0, 1.0]])


def along(image, points, coils=3, noise=0.0, seed=0):
    """Exact samples ``(coils, shots, readout)`` by the sum itself, and the maps."""
    maps = loop_coils(image.shape, coils)
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / n for n in image.shape], indexing="ij")
    flat = points.reshape(-1, 2)
    waves = np.exp(-2j * np.pi * (flat[:, :1] * y.ravel() + flat[:, 1:] * x.ravel()))
    samples = (maps * image).reshape(coils, -1) @ waves.T / np.sqrt(image.size)
    rng = np.random.default_rng(seed)
    samples = samples + noise * (rng.normal(size=samples.shape) + 1j * rng.normal(size=samples.shape))
    return samples.reshape(coils, *points.shape[:2]), maps


def write(path, images, points, per_pixel=True, shuffle=True, noise_scan=None, discard=0, field=(64, 120, 5)):
    """A radial ISMRMRD file of several slices, shots in any order."""
    lines = []
    for s, image in enumerate(images):
        samples, _ = along(image, points)
        for shot in range(points.shape[0]):
            data = np.pad(samples[:, shot], [(0, 0), (discard, discard)])
            one = line(data, dirs=DIRS, position=(10, -5, 6.0 * s), slice=s, kspace_encode_step_1=shot)
            traj = points[shot][:, ::-1] / (np.array(image.shape)[::-1] if per_pixel else 1)
            full = ismrmrd.Acquisition.from_array(
                one.data, np.pad(traj, [(discard, discard), (0, 0)]).astype(np.float32)
            )
            for name in ("position", "read_dir", "phase_dir", "slice_dir"):
                setattr(full, name, getattr(one, name))
            full.idx.slice, full.idx.kspace_encode_step_1 = s, shot
            full.discard_pre = full.discard_post = discard
            full.sample_time_us = 5.0
            lines.append(full)
    if shuffle:
        lines = [lines[k] for k in np.random.default_rng(0).permutation(len(lines))]
    if noise_scan is not None:
        lines.insert(0, line(noise_scan, flags=[ismrmrd.ACQ_IS_NOISE_MEASUREMENT]))
    ny, nx = images[0].shape
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True) as dataset:
        dataset.write_xml_header(header((nx, ny, 1), field, kind="radial").toXML("utf-8"))
        for one in lines:
            dataset.append_acquisition(one)
    return path
