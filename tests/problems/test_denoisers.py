"""Priors that only denoise, through the one path: their solver, their noise levels, and what they refuse."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from medrecon.bundle import chosen_solver, load_prior
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import load_image
from medrecon.posterior import network_prior
from medrecon.priors import TrainedNoise
from medrecon.reconstruction import plan

from ..make.compare import relative_error
from ..make.dicom import RECORD, oblique
from ..make.outputs import write_volume
from ..make.toys import Smooth, cartesian, image, images, picture, sinogram, spec

NOISE = TrainedNoise("gaussian", 0.01, 0.25)


def denoiser(**more):
    return spec("magnitude", Smooth(), noise=NOISE, **more)


def test_its_solver_is_tweedie_and_one_evaluation_denoises():
    """The exact prior at the noise level of the data, computed here by hand; the unit is the 99.5th percentile."""
    noisy = picture(noise=50.0)
    made = plan(images(noisy), bundle=denoiser(), noise_std=50.0).run()
    assert made.record["solver"]["name"] == "tweedie"
    assert made.record["network_evaluations"] == 1
    y = torch.from_numpy(noisy)[None, None]
    unit = torch.quantile(y.abs().flatten(), 0.995)
    expected = unit * Smooth().prior(None)(y / unit, 50.0 / unit)
    assert np.allclose(made.image[0], expected[0, 0].abs(), rtol=1e-4, atol=1e-2)
    assert relative_error(made.image[0], np.abs(noisy)) > 0.01


def test_the_noise_is_estimated_if_it_is_not_given():
    made = plan(images(picture(noise=50.0)), bundle=denoiser())
    assert made.solver == "tweedie"
    assert made.problem.facts()["noise_std"][0] == pytest.approx(50.0, rel=0.25)


@pytest.mark.parametrize("solver", ["dds", "r2d2", "tds", "daps", "reddiff"])
def test_other_solvers_refuse_the_prior(solver):
    with pytest.raises(
        InputError, match=r"trained on noisy images alone and can only denoise.*choose the solver tweedie"
    ):
        plan(images(picture(noise=50.0)), bundle=denoiser(), solver=solver)


def test_classical_solvers_do_not_use_it():
    assert plan(images(picture(noise=50.0)), bundle=denoiser(), solver="tv").run().image.shape == (1, 48, 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "superres", "factor": 2}, "a.nii.gz: Tweedie removes Gaussian noise from images"),
        ({"task": "deblur", "blur": 1.0}, "a.nii.gz: Tweedie removes Gaussian noise from images"),
        ({"task": "deblur", "kernel": "unknown"}, "too small to estimate a kernel|does not estimate blur kernels"),
        ({"noise_model": "rician"}, "a.nii.gz: Tweedie removes Gaussian noise from images"),
        ({"samples": 3}, "no random samples"),
        ({"noise_std": 2.0}, "slice 0 has noise of .* less than the prior of bundle toy was trained for"),
    ],
)
def test_other_tasks_refuse_it(options, message):
    with pytest.raises(InputError, match=message):
        plan(images(np.abs(picture(noise=50.0))), bundle=denoiser(), **options).run()


def test_other_kinds_of_data_refuse_it():
    kspace, complex_image = cartesian()[0], images(image().astype(np.complex64))
    for scan, message in (
        (kspace, "denoises magnitude images only|removes Gaussian noise from images"),
        (
            replace(complex_image, array=complex_image.array + 0.05),
            "denoises magnitude images only, and these are complex",
        ),
        (sinogram("parallel"), "of magnitude images, which do not fit"),
    ):
        options = {} if scan is kspace else {"noise_std": 0.05}
        with pytest.raises(InputError, match=message):
            plan(scan, bundle=denoiser(), **options).run()


def test_with_more_noise_the_image_is_dimmer_for_the_network():
    """No level above the largest reaches the network; an empty slice among others stays empty."""
    seen = []

    class Seen(Smooth):
        def prior(self, network, multiple=16, dtype=None):
            inner = super().prior(network)

            def mean(x, sigma):
                seen.append(float(torch.as_tensor(sigma).max()))
                return inner(x, sigma)

            return mean

    stack = np.stack([picture(noise=50.0), np.zeros((48, 40), np.float32)])
    scan = replace(images(stack[0]), array=stack)
    made = plan(scan, bundle=replace(denoiser(), objective=Seen()), noise_std=500.0).run()
    assert max(seen) <= 0.25 + 1e-6
    assert not made.image[1].any()
    prior, _ = network_prior(denoiser(), None, (1, 8, 8), None)
    x = torch.rand(1, 1, 8, 8)
    assert torch.allclose(prior(x, 1.0), 4 * Smooth().prior(None)(x / 4, 0.25), atol=1e-6)


def test_the_solver_of_a_name_without_one():
    assert chosen_solver({"bundle": "denoise_selfsup"}) == "tweedie"
    assert chosen_solver({"bundle": "denoise_selfsup", "solver": "tv"}) == "tv"
    assert chosen_solver({"bundle": "brain_mri_magnitude"}) == "dds"
    assert chosen_solver({}) == "dds"


def test_the_bundle_from_a_nifti_to_a_nifti(tmp_path):
    """Odd sides, two slices, a sheared affine; the file is named by the solver, and the noise falls to 60 % or less."""
    affine = np.array([[-1.0, 0.1, 0, 7], [0.1, 1.5, 0, -9], [0, 0, 4, 3], [0, 0, 0, 1]])
    clean = np.stack([1000 * np.abs(image((75, 62), k)) for k in range(2)], axis=-1)
    noisy = np.abs(clean + 80 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    path = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(noisy, affine), path)
    assert (
        main(["recon", str(path), "-o", str(tmp_path / "o"), "--task", "denoise", "--bundle", "denoise_selfsup"]) == 0
    )
    (file,) = (tmp_path / "o").glob("*.nii.gz")
    found = nib.load(file)
    record = json.loads(next((tmp_path / "o").rglob("*.json")).read_text())
    assert record["solver"]["name"] == "tweedie"
    assert np.allclose(found.affine, affine, atol=1e-5)
    inside = clean > 100
    before, after = (np.std((one - clean)[inside]) for one in (noisy, found.get_fdata()))
    assert after < 0.6 * before


def test_the_bundle_from_dicom_to_dicom(tmp_path):
    """An oblique series: the same image as in Python, half a step of 32767 and rounding apart, at the same place."""
    clean = np.stack([1000 * np.abs(image((75, 62), k)) for k in range(2)])
    noisy = np.abs(clean + 80 * np.random.default_rng(0).standard_normal(clean.shape)).astype(np.float32)
    write_volume(tmp_path, "s", noisy, RECORD, None, (3.3, 1.1, 0.9), "dicom", affine=oblique())
    scan = load_image(tmp_path / "s")
    expected = plan(scan, bundle="denoise_selfsup").run().image
    command = ["recon", str(tmp_path / "s"), "-o", str(tmp_path / "o"), "--task", "denoise", "--format", "dicom"]
    assert main([*command, "--bundle", "denoise_selfsup"]) == 0
    found = load_image(next((tmp_path / "o").rglob("*.dcm")).parent)
    assert np.abs(found.affine - oblique()).max() < 1e-6
    assert np.abs(found.array - expected).max() < 0.52 * expected.max() / 32767 + 1e-3


def test_the_command_refuses_other_solvers_with_exit_code_2(tmp_path, capsys):
    path = tmp_path / "slice.nii.gz"
    nib.save(nib.Nifti1Image(picture(noise=50.0)[..., None], np.eye(4)), path)
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--bundle", "denoise_selfsup", "--solver", "dds"]
    assert main(command) == 2
    assert capsys.readouterr().err.count("can only denoise") == 1
    assert not list((tmp_path / "o").glob("*")) if (tmp_path / "o").exists() else True


def test_the_prior_of_the_bundle_is_described_as_plain_data():
    assert load_prior("denoise_selfsup").noise == TrainedNoise("gaussian", 0.01377, 0.3003)
    assert load_prior("brain_mri_magnitude").noise is None
