"""Stacks of slices as one unknown: one scale, the laws of the samples, coupled noise, slabs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.calibration_file import settings_of
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError
from medrecon.noise import slice_weights
from medrecon.operators import Slices
from medrecon.problems import physics_of, problem
from medrecon.problems.stack import Stack, _units_of_volume

from ..make.compare import relative_error
from ..make.toys import Smooth, cartesian, columns, images, picture, sinogram, solve, spec

CPU = torch.device("cpu")


def stack_of(scan, **physics):
    return problem(scan, physics_of(scan, volume=True, **physics))


def sinograms(*factors):
    one = sinogram("parallel")
    return replace(one, sinogram=np.concatenate([f * one.sinogram for f in factors]))


def noisy_pictures(n=4, noise=20.0, **more):
    one = images(picture(), **more)
    rng = np.random.default_rng(5)
    volume = np.stack([picture(seed=k) for k in range(n)])
    return replace(one, array=np.abs(volume + noise * rng.standard_normal(volume.shape)).astype(np.float32))


@pytest.mark.parametrize("slices", [1, 2, 5])
def test_without_a_prior_a_volume_is_its_slices(slices):
    """Regularised least squares are linear and act slice by slice, whatever the scale, so both ways give one image."""
    scan, _, maps = cartesian(slices=slices, mask=columns(), noise=0.01)
    scan = replace(scan, kspace=scan.kspace * np.linspace(0.2, 3, slices)[:, None, None, None].astype(np.float32))
    alone = solve(scan, physics={"maps": maps})
    together = solve(scan, physics={"maps": maps, "volume": True})
    assert relative_error(together.image, alone.image) < 1e-5
    assert np.allclose(together.record["relative_residual"], alone.record["relative_residual"], rtol=1e-4)
    assert np.allclose(together.record["residual_over_noise"], alone.record["residual_over_noise"], rtol=1e-4)
    assert together.record["slices"] == list(range(slices))
    assert together.record["volume"] is True
    assert "volume" not in alone.record


def test_sinograms_and_images_of_a_volume_are_its_slices():
    ct = sinograms(1.0, 0.5, 1.5)
    physics = {"image_size": 64, "voxel": 1.5, "photons": 1e5}
    prior = spec("attenuation")
    # The relative weight of the regulariser differs between slices with different counts, so there is (nearly) none.
    settings = {"settings": {"lam": 1e-6, "n_iter": 40}}
    alone, together = (solve(ct, prior=prior, physics={**physics, "volume": v}, **settings) for v in (False, True))
    assert np.abs(together.image - alone.image).max() < 20  # HU; conjugate gradients stop at slightly different weights
    scan = noisy_pictures()
    prior = spec("magnitude")
    physics = {"task": "superres", "factor": 2, "noise_std": 20.0}
    alone, together = (solve(scan, prior=prior, physics={**physics, "volume": v}) for v in (False, True))
    assert relative_error(together.image, alone.image) < 1e-5


def test_one_scale_and_one_noise_level_for_all_slices():
    """The 99th percentile of all zero-filled magnitudes; data times 1000 give images times 1000."""
    scan, *_ = cartesian(coils=1, slices=3, noise=0.02)
    scan = replace(scan, kspace=scan.kspace * np.array([1.0, 0.1, 2.0], np.float32)[:, None, None, None])
    solved = stack_of(scan, noise_std=0.02)
    scaled = solved.likelihood(slice(0, 1), CPU)
    scale = np.quantile(np.abs(from_kspace(scan.kspace[:, 0])), 0.99)
    assert scaled.likelihood.noise_std.item() == pytest.approx(0.02 / scale, rel=1e-4)
    assert scaled.image_scale.item() * solved.inner.unit == pytest.approx(scale, rel=1e-4)
    measured = scaled.likelihood.y[0, :, 0] * scaled.data_scale * solved.inner.unit
    assert np.allclose(measured, scan.kspace[:, 0], atol=1e-5 * scale)
    larger = replace(scan, kspace=scan.kspace * 1000)
    found = [
        solve(s, "dds", physics={"volume": True, "noise_std": n}, steps=5) for s, n in ((scan, 0.02), (larger, 20))
    ]
    assert relative_error(found[1].image / 1000, found[0].image) < 1e-4


def test_rays_keep_their_weights():
    """With photons every slice keeps the weights of its counts: the volume's likelihood is that of the slices in their sum."""
    ct = sinograms(1.0, 0.3)
    physics = {"image_size": 64, "voxel": 1.5, "photons": 1e4}
    solved = stack_of(ct, **physics)
    data, x = solved.likelihood(slice(0, 1), CPU).likelihood, torch.rand(1, 1, 2, 64, 64)
    alone = problem(ct, physics_of(ct, **physics)).likelihood(slice(0, 2), CPU).likelihood
    assert data.log_prob(x)[0] == pytest.approx(float(alone.log_prob(x[0].movedim(1, 0)).sum()), rel=1e-4)
    assert float(data.lipschitz) < 1.1


def test_images_have_the_median_of_the_noise_of_their_slices():
    scan = noisy_pictures(n=5)
    solved = stack_of(scan)
    scaled = solved.likelihood(slice(0, 1), CPU)
    noise = scaled.likelihood.noise_std.item() * scaled.data_scale.item()
    assert noise == pytest.approx(np.median(solved.inner.noise_std), rel=1e-5)
    assert solved.facts()["noise_std"] == pytest.approx(noise, rel=1e-5)


@pytest.mark.parametrize("length", [None, 3.0])
def test_samples_of_a_volume_have_the_law_of_the_posterior_and_the_coupling_of_the_noise(length):
    """White prior, all samples measured, one coil: every slice has mean ``y / (1 + s^2)`` and its spread, coupled or not.

    The sampler is linear in its noise, so the errors of slices at a distance d are correlated as their noise.
    """
    noise = 0.3
    scan, _, _ = cartesian(coils=1, slices=4, noise=noise)
    zero_filled = from_kspace(scan.kspace[:, 0])
    std = noise / np.quantile(np.abs(zero_filled), 0.99)
    physics = {"noise_std": noise, "volume": True}
    found = solve(scan, "tmpd", physics=physics, steps=100, sigma_max=8.0, z_correlation=length)
    drawn = found.image * np.exp(1j * found.phase)
    apart = (drawn - zero_filled / (1 + std**2)) / np.quantile(np.abs(zero_filled), 0.99)
    spread = 1 / np.sqrt(1 + 1 / std**2)
    # 2232 numbers a slice: the standard deviation is known to 1.5 %, a correlation to 0.02.
    assert np.abs(np.sqrt((np.abs(apart) ** 2).mean((1, 2)) / 2) / spread - 1).max() < 0.07
    for d in (1, 2, 3):
        w = np.array(slice_weights(length or 0.0))
        expected = float(w[d:] @ w[: len(w) - d]) if len(w) > d else 0.0
        between = (apart[d:] * apart[:-d].conj()).real.mean() / 2 / spread**2
        assert abs(between - expected) < 0.09


def test_selected_slices_keep_their_random_numbers():
    scan, _, maps = cartesian(slices=6, mask=columns(), noise=0.01)
    physics = {"maps": maps, "volume": True}
    whole = stack_of(scan, maps=maps)
    part = stack_of(scan, maps=maps, slices=slice(2, 5))
    assert part.slices_of(slice(0, 1)) == [2, 3, 4]
    assert whole.seed_numbers(slice(0, 1)) == part.seed_numbers(slice(0, 1))
    found = solve(scan, "dds", physics={**physics, "slices": slice(2, 5)}, steps=3, z_correlation=1.0)
    assert found.record["slices"] == [2, 3, 4]
    assert found.image.shape[0] == 3


def test_an_empty_slice_stays_empty():
    """Also where its neighbours and the prior would fill it."""
    scan, _, maps = cartesian(slices=3, mask=columns(), noise=0.01)
    kspace = scan.kspace.copy()
    kspace[1] = 0
    found = solve(
        replace(scan, kspace=kspace), "dds", physics={"maps": maps, "volume": True}, steps=4, z_correlation=2.0
    )
    assert not found.image[1].any()
    assert found.image[0].any() and found.image[2].any()


def test_samples_of_a_volume_have_maps_of_all_slices():
    scan, _, maps = cartesian(slices=3, mask=columns(), noise=0.01)
    physics = {"maps": maps, "volume": True, "noise_std": 0.01}
    found = solve(scan, "dds", spec(objective=Smooth()), physics, steps=4, samples=3, z_correlation=2.0)
    assert found.samples.shape == (3, 3, 36, 31)
    assert found.uncertainty.spread.shape == found.uncertainty.null_spread.shape == (3, 36, 31)
    assert np.allclose(found.image, found.samples.mean(0), atol=1e-5 * found.image.max())


def test_tv_of_a_volume_couples_slices():
    """The variation along z counts: with a large weight slices become alike, which one by one they do not."""
    scan, _, maps = cartesian(slices=4, noise=0.02)
    for solver in ("tv", "tv-fista"):
        settings = {"lam": 0.3}
        alone = solve(scan, solver, physics={"maps": maps}, settings=settings).image
        together = solve(scan, solver, physics={"maps": maps, "volume": True}, settings=settings).image
        along = [np.abs(np.diff(x, axis=0)).sum() for x in (alone, together)]
        assert along[1] < 0.8 * along[0]


@pytest.mark.parametrize(
    ("physics", "more", "words"),
    [
        ({}, {"solver": "cg-sense", "z_correlation": 1.0}, "couples the slices of a volume"),
        ({"volume": True}, {"solver": "dds", "z_correlation": float("nan")}, "z_correlation must be a number"),
        ({"volume": True}, {"solver": "dds", "z_correlation": -1.0}, "z_correlation must be a number"),
        ({"volume": True}, {"solver": "dds", "z_correlation": 1e6}, "from 0 to 100 slices"),
        ({"volume": "yes"}, {"solver": "dds"}, "volume must be true or false"),
        ({"volume": True}, {"solver": "tds"}, "works on single slices"),
        ({"volume": True, "coil_images": "hybrid"}, {"solver": "scoremri"}, "reconstructed slice by slice"),
    ],
)
def test_what_volumes_cannot_do_is_refused(physics, more, words):
    scan, _, _ = cartesian(mask=columns(), noise=0.01)
    with pytest.raises(InputError, match=words):
        solve(scan, more.pop("solver"), physics=physics, **more)


def test_other_options_that_volumes_do_not_have():
    with pytest.raises(InputError, match="rician is for single slices"):
        stack_of(noisy_pictures(), noise_model="rician")
    with pytest.raises(InputError, match="works on single slices"):
        solve(noisy_pictures(), "r2d2", spec("magnitude"), {"volume": True})
    with pytest.raises(InputError, match="works slice by slice"):
        solve(sinograms(1, 1), "fbp", spec("attenuation"), {"volume": True, "image_size": 64})
    assert isinstance(stack_of(sinogram("fan"), image_size=32), Stack)


def test_counts_of_photons():
    """Poisson data of a volume: the log-likelihood is the sum of those of the slices."""
    ct = sinograms(1.0, 0.3)
    physics = {"image_size": 64, "voxel": 1.5, "photons": 1e4, "noise_model": "poisson"}
    data = stack_of(ct, **physics).likelihood(slice(0, 1), CPU).likelihood
    alone = problem(ct, physics_of(ct, **physics)).likelihood(slice(0, 2), CPU).likelihood
    x = torch.rand(1, 1, 2, 64, 64)
    assert isinstance(data.A, Slices)
    assert data.log_prob(x)[0] == pytest.approx(float(alone.log_prob(x[0].movedim(1, 0)).sum()), rel=1e-6)


def masks_by_slice(n=3):
    """A mask of columns per slice, with a common centre."""
    base = columns()
    masks = np.stack([np.roll(base, k, axis=1) for k in range(n)])
    masks[:, :, 10:21] = True
    return masks


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_every_slice_may_have_its_own_mask(volume, given):
    """The image of a slice is that of the slice alone with its mask; and a volume has them all."""
    masks = masks_by_slice()
    scan, _, maps = cartesian(slices=3, noise=0.01)
    whole = replace(scan, kspace=scan.kspace * masks[:, None], mask=masks.any(0)[0])
    physics = {"maps": maps, "volume": volume, "noise_std": 0.01}
    found = solve(scan if given else whole, physics={**physics, **({"mask": masks[:, :1]} if given else {})})
    for k in range(3):
        one = replace(scan, kspace=(scan.kspace * masks[k])[k : k + 1], mask=masks[k][0])
        alone = solve(one, physics={"maps": maps, "noise_std": 0.01})
        assert relative_error(found.image[k], alone.image[0]) < 1e-5
    assert found.record["acceleration"] == pytest.approx(masks.size / masks.sum(), rel=1e-3)
    assert found.record["residual_over_noise"] < 1.2


@pytest.mark.parametrize("volume", [False, True])
def test_empty_slices_among_slices_with_their_own_masks_change_nothing(volume):
    """Their zeros are not samples: neither the others' images nor the acceleration depend on them."""
    masks = masks_by_slice()
    scan, _, maps = cartesian(slices=3, noise=0.01)
    kspace = scan.kspace * masks[:, None]
    padded = np.stack([kspace[0], np.zeros_like(kspace[0]), kspace[1], kspace[2]])
    physics = {"volume": volume, "noise_std": 0.01, "maps": maps}
    whole = solve(replace(scan, kspace=kspace, mask=masks.any(0)[0]), physics=physics)
    found = solve(replace(scan, kspace=padded, mask=masks.any(0)[0]), physics=physics)
    assert not found.image[1].any()
    assert found.record["acceleration"] == whole.record["acceleration"]
    # One scale for the volume is a quantile of all pixels, with those of the empty slice; regularised least squares ignore it.
    assert relative_error(found.image[[0, 2, 3]], whole.image) < 1e-5


def test_the_noise_of_slices_with_their_own_masks_is_measured():
    masks = masks_by_slice()
    scan, *_ = cartesian(slices=3, noise=0.05)
    scan = replace(scan, kspace=scan.kspace * masks[:, None], mask=masks.any(0)[0])
    found = solve(scan, "dds", physics={"volume": True}, steps=3)
    assert found.record["noise_std"] == pytest.approx(0.05, rel=0.15)
    assert found.record["maps_source"].startswith("ESPIRiT")


def test_masks_that_the_samples_do_not_show_are_refused():
    masks = masks_by_slice()
    scan, _, maps = cartesian(slices=3, noise=0.01)
    kspace = scan.kspace * masks[:, None]
    claimed = masks.copy()
    claimed[1] = True  # slice 1 was not measured everywhere
    with pytest.raises(InputError, match=r"\(slice 1\): the mask has \d+ samples that are zero"):
        stack_of(replace(scan, kspace=kspace, mask=masks.any(0)[0]), mask=claimed, maps=maps)
    torn = scan.kspace * columns()
    torn[1, :, :18, 5] = 0  # half a column was lost
    with pytest.raises(InputError, match="slice 1 lacks 18 of"):
        stack_of(replace(scan, kspace=torn, mask=columns()[0]), maps=maps)
    one_coil = kspace.copy()
    one_coil[1, 2, :, 14] = 0
    with pytest.raises(InputError, match="lacks"):
        stack_of(replace(scan, kspace=one_coil, mask=masks.any(0)[0]), maps=maps)
    whole_numbers = np.rint(kspace * 1000).astype(np.complex64)
    with pytest.raises(InputError, match="floating-point data"):
        stack_of(replace(scan, kspace=whole_numbers, mask=masks.any(0)[0]), maps=maps)


def test_a_calibration_of_single_slices_is_not_one_of_volumes():
    scan, _, maps = cartesian(slices=2, mask=columns(), noise=0.01)
    made = [
        solve(scan, "dds", physics={"maps": maps, "volume": v}, steps=2, samples=2).record["settings_sha256"]
        for v in (False, True)
    ]
    assert made[0] != made[1]


def test_a_calibration_of_independent_slices_is_not_one_of_coupled_slices():
    """A correlation of 0 is the default, and axial planes are those of calibrations that were made before there was a choice."""
    scan, _, maps = cartesian(slices=2, mask=columns(), noise=0.01)
    physics = {"maps": maps, "volume": True}
    lengths = {}, {"z_correlation": 0.0}, {"z_correlation": 2.0}
    made = [solve(scan, "dds", physics=physics, steps=2, samples=2, **one).record for one in lengths]
    assert [one["z_correlation"] for one in made] == [0.0, 0.0, 2.0]
    default, same, coupled = (one["settings_sha256"] for one in made)
    assert default == same != coupled
    older = {key: value for key, value in made[0].items() if key not in ("planes", "z_correlation")}
    assert settings_of(older) == settings_of(made[0])


def test_empty_slices_do_not_determine_the_units_of_a_volume():
    """Neither the noise nor the largest factor of an operator."""
    unit, data, std = (torch.tensor(each).double() for each in ([2.0, 0.0, 0.0], [0.5, 5.0, 5.0], [0.1, 7.0, 7.0]))
    units = _units_of_volume(unit, data, std, scale=2.0)
    assert units.noise_std == pytest.approx(0.1)
    assert units.factors.tolist() == [1.0, 1.0, 1.0]
