"""Simulated measurements have the laws that they claim, and come back as the images that they were made of."""

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose

from medrecon.data.coils import combine_coils, from_kspace
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import counted
from medrecon.data.scan import Sinogram
from medrecon.reconstruction import plan
from medrecon.transforms import (
    AddSmoothPhase,
    AddSmoothPhased,
    ChannelFirst,
    CropKSpace,
    CropKSpaced,
    EstimateSensitivityMaps,
    EstimateSensitivityMapsd,
    NormalizeKSpace,
    NormalizeKSpaced,
    SelectSlices,
    SelectSlicesd,
    SimulateKSpace,
    SimulateKSpaced,
    SimulateSinogram,
    SimulateSinogramd,
    UndersampleKSpace,
    UndersampleKSpaced,
)
from tests.make.images import blobs


def volume(shape=(40, 36), slices=2):
    image = np.stack([np.abs(blobs(shape, k)) for k in range(slices)]).astype(np.float32)
    affine = torch.tensor([[0.9, 0, 0, -3.0], [0, 0.9, 0, 5.0], [0, 0, 4.0, 1.0], [0, 0, 0, 1.0]], dtype=torch.float64)
    return MetaTensor(torch.from_numpy(image), affine=affine, meta={"filename_or_obj": "a.nii"})


def test_phase_turns_and_keeps_the_magnitude():
    image = volume()
    turned = AddSmoothPhase().set_random_state(1)(image)
    assert torch.allclose(turned.abs().as_tensor(), image.as_tensor(), atol=1e-6)
    assert float(turned.as_tensor().imag.abs().max()) > 0.1
    assert torch.equal(turned.affine, image.affine)
    assert torch.equal(turned, AddSmoothPhase().set_random_state(1)(image))
    assert not torch.equal(turned, AddSmoothPhase().set_random_state(2)(image))
    still = AddSmoothPhase(prob=0.0)(image)
    assert still.is_complex()
    assert torch.equal(still.as_tensor().real, image.as_tensor())
    both = AddSmoothPhased(["a", "b"]).set_random_state(1)({"a": image, "b": image})
    assert not torch.equal(both["a"], both["b"])


@pytest.mark.parametrize("coils", [1, 6])
def test_simulated_k_space_is_that_of_the_image_and_noise(coils):
    image = volume()
    clean = SimulateKSpaced("image", coils=coils, noise_std=0.0)({"image": image})
    assert np.allclose(combine_coils(clean["image"].numpy(), "mvue", clean["maps"].numpy()), image.numpy(), atol=1e-5)
    noisy = SimulateKSpaced("image", coils=coils, noise_std=0.03).set_random_state(0)({"image": image})
    noise = (noisy["image"] - clean["image"]).as_tensor()
    for part in (noise.real, noise.imag):
        assert float(part.std()) == pytest.approx(0.03, rel=5 / math.sqrt(2 * part.numel()))
    assert noisy["noise_std"] == 0.03
    assert noisy["mask"].all()
    assert torch.equal(noisy["image"].affine, image.affine)
    with pytest.raises(InputError, match=r"\(slices, y, x\)"):
        SimulateKSpaced("image")({"image": image[0]})


def test_a_chain_from_magnitudes_to_undersampled_data_is_the_same_for_the_same_seed():
    chain = Compose([
        AddSmoothPhased("image"), SimulateKSpaced("image", coils=4), UndersampleKSpaced("image", accel=2, acs=16),
        NormalizeKSpaced("image"), EstimateSensitivityMapsd("image"),
    ]).set_random_state(3)  # fmt: skip
    first = chain({"image": volume()})
    second = chain.set_random_state(3)({"image": volume()})
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["maps"], second["maps"])
    assert 0 < float(first["mask"].float().mean()) < 0.7
    assert CacheDataset([{"image": volume()}], chain, progress=False)[0]["image"].is_complex()


def test_normalising_is_undone():
    data = SimulateKSpaced("image", coils=3, noise_std=0.02).set_random_state(0)({"image": 7 * volume()})
    normalise = NormalizeKSpaced("image", percentile=98)
    scaled = normalise(data)
    assert np.percentile(combine_coils(scaled["image"].numpy()), 98) == pytest.approx(1.0, rel=1e-5)
    ratio = data["noise_std"] / scaled["noise_std"]
    assert torch.allclose(scaled["image"].as_tensor() * ratio, data["image"].as_tensor(), rtol=1e-5)
    back = normalise.inverse(scaled)
    assert torch.allclose(back["image"].as_tensor(), data["image"].as_tensor(), rtol=1e-5)
    assert back["noise_std"] == pytest.approx(0.02)
    empty = normalise({"image": MetaTensor(torch.zeros(1, 2, 8, 8, dtype=torch.complex64))})
    assert torch.equal(empty["image"].as_tensor(), torch.zeros(1, 2, 8, 8, dtype=torch.complex64))


def test_a_cropped_field_of_view_stays_where_it_was():
    image = volume((40, 36))
    data = SimulateKSpaced("image", coils=1, noise_std=0.0)({"image": image})
    out = CropKSpaced("image", (31, -1))(data)
    assert np.allclose(from_kspace(out["image"].numpy())[:, 0], image.numpy()[:, 5:36], atol=1e-5)
    # Index 0 of the new image is index 5 of the old: the same place in space.
    index = torch.tensor([0.0, 5.0, 0.0, 1.0], dtype=torch.float64)
    origin = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(out["image"].affine @ origin, image.affine @ index)
    assert torch.equal(CropKSpace((31, 36))(data["image"]), out["image"])
    assert out["mask"].shape == (1, 36)


def test_counting_has_the_law_of_poisson():
    lines = np.full((200, 300), 2.0)
    rng = np.random.default_rng(0)
    found = counted(lines, 1e5, 0.0, rng)
    expected = 1e5 * math.exp(-2)
    # The variance of the log of a count is one over the count.
    assert found.std() == pytest.approx(expected**-0.5, rel=0.02)
    assert found.mean() == pytest.approx(2.0, abs=5 * expected**-0.5 / math.sqrt(found.size) + 0.5 / expected)
    rough = counted(lines, 1e5, 100.0, rng)
    assert rough.std() == pytest.approx((expected + 1e4) ** 0.5 / expected, rel=0.02)
    assert np.array_equal(counted(lines, 0.0, 0.0, rng), lines.astype(np.float32))
    assert np.isfinite(counted(np.full((3, 3), 50.0), 1e3, 5.0, rng)).all()  # no photon arrives


def test_water_comes_back_as_zero_hounsfield_units():
    y, x = np.mgrid[-31.5:32, -31.5:32]
    hu = np.where(x**2 + y**2 < 24**2, 0.0, -1000.0).astype(np.float32)[None]
    affine = torch.diag(torch.tensor([1.5, 1.5, 3.0, 1.0], dtype=torch.float64))
    data = SimulateSinogramd("image", views=120, photons=1e6).set_random_state(0)(
        {"image": MetaTensor(torch.from_numpy(hu), affine=affine)}
    )
    assert data["image"].shape[1] == 120
    assert (data["detector_spacing"], data["photons"]) == (1.5, 1e6)
    scan = Sinogram(
        path=Path("disc"), format="simulated", sinogram=data["image"].as_tensor().numpy(), angles=data["angles"].numpy(),
        detector_spacing=data["detector_spacing"], offset=data["offset"], photons=data["photons"],
    )  # fmt: skip
    image = plan(scan, solver="fbp", image_size=64, voxel=1.5).run().image[0]
    assert abs(image[x**2 + y**2 < 18**2].mean()) < 5
    assert abs(image[x**2 + y**2 > 29**2].mean() + 1000) < 30
    with pytest.raises(InputError, match="give spacing"):
        SimulateSinogramd("image")({"image": torch.from_numpy(hu)})
    with pytest.raises(InputError, match="not square"):
        SimulateSinogramd("image")(
            {"image": MetaTensor(torch.from_numpy(hu), affine=torch.diag(torch.tensor([1.0, 2, 1, 1])))}
        )
    with pytest.raises(InputError, match="degrees"):
        SimulateSinogramd("image", turn=400)


@pytest.mark.parametrize("shape", [(64, 48), (41, 57)])
@pytest.mark.parametrize("kind", ["radial", "spiral"])
def test_masks_of_spokes_and_of_a_spiral_keep_to_their_budget(kind, shape):
    ny, nx = shape
    y, x = np.meshgrid(*[(np.arange(n) - n // 2) / (n / 2) for n in shape], indexing="ij")
    for accel in (2.0, 4.0, 8.0):
        mask = undersampling_mask(shape, kind, accel, 6, 3)
        budget = int(ny * nx / accel)
        # No spoke (or quarter of a turn) more would fit: within one spoke's, or a turn's, length of the budget.
        assert budget - 4 * (ny + nx) / (4 if kind == "radial" else 1) <= mask.sum() <= budget
        assert mask[ny // 2 - 3 : ny // 2 + 3, nx // 2 - 3 : nx // 2 + 3].all()
        radius = np.hypot(y, x)
        inner, outer = mask[radius < 0.25].mean(), mask[(radius > 0.6) & (radius < 0.95)].mean()
        assert inner > outer  # the density falls as 1 / r, a spiral's least
        assert not mask[radius > 1.1].any()
        assert np.array_equal(mask, undersampling_mask(shape, kind, accel, 6, 3))
        assert not np.array_equal(mask, undersampling_mask(shape, kind, accel, 6, 4))
    with pytest.raises(ValueError, match="leaves out the corners"):
        undersampling_mask(shape, kind, 1.05, 6, 0)
    data = SimulateKSpaced("image", coils=2)({"image": volume((64, 48))})
    assert UndersampleKSpaced("image", kind=kind, accel=4, acs=8)(data)["mask"].shape == (64, 48)


def test_array_forms_do_what_the_dictionary_forms_do():
    image = volume()
    simulated = SimulateKSpace(4, 0.01).set_random_state(0)(image)
    data = SimulateKSpaced("image", 4, 0.01).set_random_state(0)({"image": image})
    assert torch.equal(simulated, data["image"])
    few = UndersampleKSpace(accel=2, acs=16, seed=1)(simulated)
    fewer = UndersampleKSpaced("image", accel=2, acs=16, seed=1)(data)
    assert torch.equal(few, fewer["image"])
    assert few.meta["acceleration"] == fewer["image"].meta["acceleration"]
    maps = EstimateSensitivityMaps()(few, fewer["mask"], fewer["noise_std"])
    assert torch.equal(maps, EstimateSensitivityMapsd("image")(fewer)["maps"])
    scaled = NormalizeKSpace(98)(few)
    assert torch.equal(scaled, NormalizeKSpaced("image", 98)(fewer)["image"])
    assert torch.allclose(scaled * scaled.meta["scale"], few, rtol=1e-6)
    some = SelectSlices(1)(simulated)
    index = torch.tensor([0.0, 0, 1, 1], dtype=torch.float64)
    assert torch.allclose(some.affine @ torch.tensor([0.0, 0, 0, 1], dtype=torch.float64), image.affine @ index)
    hu = MetaTensor(torch.zeros(1, 32, 32), affine=torch.eye(4, dtype=torch.float64))
    lines = SimulateSinogram(20).set_random_state(0)(hu)
    both = SimulateSinogramd("image", 20).set_random_state(0)({"image": hu})
    assert torch.equal(lines, both["image"])
    assert lines.meta["detector_spacing"] == both["detector_spacing"] == 1.0
    with pytest.raises(InputError, match="selects none of the"):
        SelectSlices(5)(simulated)


def test_images_keep_their_warnings_to_themselves():
    """MONAI warns where an affine is given twice; a manifest would repeat it for every case."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = SimulateKSpaced("image")({"image": volume()})
        out = CropKSpaced("image", (31, -1))(SelectSlicesd("image", 1)(data))
        assert tuple(out["image"].shape[:1]) == (1,)
        assert torch.equal(ChannelFirst()(volume()).affine, volume().affine)
