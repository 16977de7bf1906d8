"""Command line, MONAI bundle and Python give the same files for the same seed, for every kind of scan."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

import medrecon
from medrecon.bundle import find_bundle
from medrecon.cli import main
from medrecon.data.scan import Geometry
from medrecon.formats import save_fastmri
from medrecon.monai_bundle import load_config
from medrecon.writers.nifti import nifti_bytes

from ..make.toys import cartesian, columns, noncartesian, picture, sinogram


def kspace_file(folder):
    scan, *_ = cartesian(mask=columns(), noise=0.01)
    save_fastmri(folder / "scan.h5", scan)
    return folder / "scan.h5"


def shots_file(folder):
    scan, *_ = cartesian(mask=columns(), noise=0.01)
    labels = np.where(scan.mask, (np.cumsum(scan.mask) - 1) % 3, -1)
    np.savez(folder / "scan.npz", kspace=scan.kspace, shots=labels)
    return folder / "scan.npz"


def radial_file(folder):
    scan = noncartesian(cartesian(noise=0.01, slices=1)[0])
    np.savez(folder / "scan.npz", kspace=scan.samples, trajectory=scan.trajectory[0], matrix=scan.matrix)
    return folder / "scan.npz"


def sinogram_file(folder):
    scan = sinogram("parallel")
    np.savez(folder / "scan.npz", sino=scan.sinogram, theta_rad=scan.angles, detector_spacing_mm=scan.detector_spacing)
    return folder / "scan.npz"


def image_file(folder):
    affine = np.array([[-1.0, 0, 0, 7.0], [0, -1.0, 0, 9.0], [0, 0, 2.0, 3.0], [0, 0, 0, 1]])
    volume = np.stack([picture(noise=30.0), picture(noise=30.0, seed=1)])
    (folder / "scan.nii.gz").write_bytes(nifti_bytes(volume, Geometry((2.0, 1.0, 1.0), affine)))
    return folder / "scan.nii.gz"


def frames_file(folder):
    scan, *_ = cartesian(slices=1, noise=0.01)
    kspace = np.stack([scan.kspace * columns(), scan.kspace * np.roll(columns(), 2, 1)])
    np.savez(folder / "scan.npz", kspace=kspace)
    return folder / "scan.npz"


WAYS = {
    "k-space": (kspace_file, "brain_mri", {}, {}),
    "k-space, magnitude prior": (kspace_file, "brain_mri_magnitude", {}, {}),
    "k-space, prewhitened and compressed": (kspace_file, "brain_mri", {"compress": 3}, {}),
    "k-space, volume": (kspace_file, "brain_mri", {"volume": True}, {"z_correlation": 1.5}),
    "images, thin slices": (
        image_file,
        "brain_mri_magnitude",
        {"task": "superres", "factor": [3, 1, 2]},
        {"z_correlation": 1.0},
    ),
    "k-space, joint maps": (kspace_file, "brain_mri", {"maps": "joint"}, {}),
    "k-space, moving": (shots_file, "brain_mri", {"correct_motion": True}, {}),
    "trajectory": (radial_file, "brain_mri", {}, {}),
    "sinogram": (sinogram_file, "chest_ct", {"image_size": 64, "voxel": 1.5}, {}),
    "image": (image_file, "brain_mri_magnitude", {"region": [5, 40, 3, 30]}, {}),
    "image, finer": (image_file, "brain_mri_magnitude", {"task": "superres", "factor": 2}, {}),
    "frames": (frames_file, "brain_mri", {}, {"frames": "phase"}),
    "k-space, planes of a volume": (kspace_file, "brain_mri", {"volume": True, "planes": "axial,coronal"}, {}),
    "image, particles": (image_file, "brain_mri_magnitude", {}, {"solver": "ddsmc", "particles": 3}),
}


def flags(physics, more):
    out = []
    for name, value in physics.items():
        text = "{}:{},{}:{}".format(*value) if name == "region" else str(value).strip("[]").replace(" ", "")
        out += [f"--{name.replace('_', '-')}", *([] if value is True else [text])]
    for name, value in more.items():
        out += ["--dynamic" if name == "frames" else f"--{name.replace('_', '-')}", str(value)]
    return out


@pytest.mark.parametrize("kind", WAYS)
def test_every_way_gives_the_same_bytes(kind, tmp_path):
    make, bundle, physics, more = WAYS[kind]
    path = make(tmp_path)
    common = ["recon", str(path), "-o", str(tmp_path / "cli"), "--format", "h5", "--steps", "2", "--seed", "3"]
    assert main([*common, "--bundle", bundle, "--samples", "2", *flags(physics, more)]) == 0
    config = load_config(
        find_bundle(bundle), scan=str(path), output_dir=str(tmp_path / "monai"), output_format="h5", n_steps=2, seed=3,
        samples=2, physics=physics, device=torch.device("cpu"), **more,
    )  # fmt: skip
    config.get_parsed_content("run")
    sidecars = [json.loads((tmp_path / way / "scan.json").read_text()) for way in ("cli", "monai")]
    for one in sidecars:
        del one["seconds"]
        one.pop("request_sha256", None)  # of the command line alone, which finds by it what is there
    assert sidecars[0] == sidecars[1]  # with the SHA-256 of the images
    assert sidecars[0]["bundle"]["name"] == bundle
    if "frames" not in more:
        python = medrecon.reconstruct(path, bundle=bundle, steps=2, seed=3, samples=2, **physics, **more)
        with h5py.File(tmp_path / "cli" / "scan.h5") as file:
            assert np.array_equal(file["reconstruction"][()], python.image)
            assert np.array_equal(file["samples"][()], python.samples)


@pytest.mark.slow
@pytest.mark.parametrize("kind", WAYS)
def test_programs_of_their_own_give_the_same_bytes(kind, tmp_path):
    """``python -m monai.bundle run`` and ``python -m medrecon recon``, from another folder."""
    make, bundle, physics, more = WAYS[kind]
    path = make(tmp_path)
    ours = ["medrecon", "recon", path, "-o", "cli", "--bundle", bundle, "--steps", 2, "--seed", 3]
    config = find_bundle(bundle) / "configs" / "inference.yaml"
    monai = ["monai.bundle", "run", "--config_file", config, "--scan", path, "--output_dir", "monai", "--n_steps", 2]
    monai += ["--seed", 3, *[f"--{key}={value}" for key, value in {"physics": physics, **more}.items()]]
    for command in ([*ours, *flags(physics, more)], monai):
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", *map(str, command)], cwd=tmp_path, capture_output=True, text=True
        )
        assert out.returncode == 0, out.stderr[-2000:]
    sidecars = [json.loads((tmp_path / way / "scan.json").read_text()) for way in ("cli", "monai")]
    for one in sidecars:
        del one["seconds"]
        one.pop("request_sha256", None)  # of the command line alone, which finds by it what is there
    assert sidecars[0] == sidecars[1]
    images = [(tmp_path / way / "scan.nii.gz").read_bytes() for way in ("cli", "monai")]
    assert images[0] == images[1]


def test_a_reconstruction_does_not_import_monai(tmp_path):
    """Neither a classical solver nor one with a network, in one process."""
    path = kspace_file(tmp_path)
    code = (
        "import sys, medrecon; from medrecon.cli import main\n"
        "for solver in ('cg-sense', 'dds'):\n"
        f"    out = {str(tmp_path)!r} + '/' + solver\n"
        f"    assert main(['recon', {str(path)!r}, '-o', out, '--solver', solver, '--steps', '1']) == 0\n"
        f"    medrecon.reconstruct({str(path)!r}, solver=solver, steps=1)\n"
        "print(sorted({'monai', 'ignite', 'sigpy', 'matplotlib'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
