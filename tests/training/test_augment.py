"""Augmentation against what a scanner's physics says: bands, positions, phases."""

import math

import numpy as np
import pytest
import torch

from medrecon.data.coils import from_kspace
from medrecon.data.espirit import espirit_maps
from medrecon.data.masks import centred
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.training.augment import (
    Augment,
    Crops,
    anatomical_phase,
    demodulate,
    polynomial_field,
    random_field,
    resampling_matrix,
)

from ..make.images import blobs


def wave(n, frequency, positions):
    return torch.cos(2 * math.pi * frequency * positions / n + 0.4)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("zoom", [0.6, 0.77, 1.0, 1.3])
def test_resampling_is_exact_inside_the_band_and_zero_outside(n, zoom):
    first = torch.tensor([2.3, -1.0], dtype=torch.float64)
    matrix = resampling_matrix(n, 15, torch.full((2,), zoom, dtype=torch.float64), first)
    samples = torch.arange(n, dtype=torch.float64)
    assert torch.allclose(matrix.sum(2), torch.ones(2, 15, dtype=torch.float64), atol=1e-9)
    highest = (math.floor(n * min(1.0, zoom) + 1e-4) - 1) // 2
    for frequency in (1, highest):
        for i in range(2):
            positions = first[i] + torch.arange(15, dtype=torch.float64) / zoom
            # 1e-4 and not 1e-9: the kernel is replaced by its limit where its argument falls below 1e-6.
            assert torch.allclose(matrix[i] @ wave(n, frequency, samples), wave(n, frequency, positions), atol=1e-4)
    if zoom < 1:
        lost = math.floor(n * zoom + 1e-4) // 2 + 1
        assert (matrix @ wave(n, lost, samples)).abs().max() < 1e-9


def test_whole_pixels_are_kept_bit_by_bit_where_nothing_is_resampled():
    images = torch.randint(0, 255, (4, 1, 40, 48), dtype=torch.uint8)
    plain = {"zoomed": 0.0, "rotated": 0.0, "flipped": 0.0, "gain": 0.0, "shading": 0.0}
    torch.manual_seed(0)
    crops = Augment(crop=16, kind="magnitude", **plain)(images)
    for crop, image in zip(crops, images, strict=True):
        windows = image[0].unfold(0, 16, 1).unfold(1, 16, 1).float() / 200
        assert (windows - crop[0]).abs().amax((2, 3)).min() < 1e-5
    pair = Augment(crop=16, **plain)(images)
    for crop, image in zip(pair, images, strict=True):  # a phase changes no magnitude
        windows = image[0].unfold(0, 16, 1).unfold(1, 16, 1).float() / 200
        assert (windows - crop.norm(dim=0)).abs().amax((2, 3)).min() < 1e-5


def test_quarter_turns_and_flips_are_turns_and_flips():
    image = torch.zeros(1, 1, 16, 16)
    image[0, 0, 0, 3] = 200
    still = {"zoomed": 0.0, "gain": 0.0, "shading": 0.0, "crop": 16, "kind": "magnitude", "zoom": (1.0, 1.0)}
    assert Augment(rotated=1.0, flipped=0.0, **still)(image)[0, 0, 12, 0].item() == pytest.approx(1.0, abs=1e-5)
    assert Augment(rotated=0.0, flipped=1.0, **still)(image)[0, 0, 0, 12].item() == pytest.approx(1.0, abs=1e-5)


def test_polynomial_field():
    c = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = polynomial_field((7, 9), c, 10.0)
    y, x = (2 - 3) / 10, (8 - 4) / 10
    expected = c @ torch.tensor([1, y, x, y * y, y * x, x * x], dtype=torch.float64)
    assert torch.allclose(field[:, 0, 2, 8], expected)


def test_anatomical_phase_has_edges_and_no_smooth_part():
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    one = torch.ones(2)
    phase = anatomical_phase(x, one, 0.3 * one, 4 * one)
    assert torch.allclose(phase.mean((2, 3)), torch.zeros(2, 1), atol=1e-6)
    assert anatomical_phase(torch.ones_like(x), one, one, one).abs().max() < 1e-6
    assert torch.allclose(anatomical_phase(x, 2 * one, 0.3 * one, 4 * one), 2 * phase)
    # Along the field the kernel is 2/3, across it -1/3.
    stripes = torch.cos(2 * math.pi * 8 * torch.arange(32) / 32).expand(1, 1, 32, 32)
    along = anatomical_phase(stripes, one[:1], 0 * one[:1], 50 * one[:1])
    across = anatomical_phase(stripes, one[:1], math.pi / 2 * one[:1], 50 * one[:1])
    assert torch.allclose(along, stripes * 2 / 3, atol=1e-4)
    assert torch.allclose(across, -stripes / 3, atol=1e-4)


def test_one_channel_is_a_magnitude_or_a_real_part():
    images = torch.full((64, 1, 40, 40), 200.0)
    torch.manual_seed(1)
    assert (Augment(crop=16, kind="magnitude", rotated=0.0)(images) >= 0).all()
    signed = Augment(crop=16, kind="magnitude", signed=1.0, gain=0.0, shading=0.0)(images)
    assert (signed < 0).any() and signed.abs().max() < 1.01
    # The constant phase is uniform: the mean over images vanishes, standard error 0.71 / 8, four of them.
    assert abs(float(signed.mean())) < 4 * 0.71 / 8


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="no smaller sides"):
        Augment(crop=48)(torch.zeros(1, 1, 40, 40))
    with pytest.raises(ValueError, match="one channel"):
        Augment(crop=8)(torch.zeros(1, 3, 40, 40))


def test_random_fields_are_smooth_and_of_variance_one():
    torch.manual_seed(0)
    scale = torch.tensor([3.0, 12.0]).repeat_interleave(400)
    fields = random_field((64, 48), scale)[:, 0]
    for i, width in ((0, 3.0), (400, 12.0)):
        some = fields[i : i + 400]
        # Of 400 fields with at least some dozen independent values each.
        assert some.square().mean().item() == pytest.approx(1.0, abs=0.05)
        # Smoothed by a Gaussian of width w, the correlation at a distance d is exp(-d^2 / (4 w^2)).
        beside = (some * some.roll(4, 1)).mean() / some.square().mean()
        assert beside.item() == pytest.approx(math.exp(-(4**2) / (4 * width**2)), abs=0.03)


def test_demodulated_images_are_what_estimated_coil_maps_leave():
    """ESPIRiT's maps carry the phase of the low-resolution image, so it is missing from the combined image."""
    shape = (48, 40)
    magnitude = torch.from_numpy(np.abs(blobs(shape))).float()[None, None]
    phase = polynomial_field(shape, torch.tensor([[0.3, 1.0, -0.7, 0.5, 0.4, -0.6]]), 24.0)
    x = torch.polar(magnitude, phase)
    left = demodulate(x, torch.tensor([[48.0, 10.0]]))
    assert torch.allclose(left.abs(), magnitude, atol=1e-6)
    assert float(left.imag.square().sum() / left.abs().square().sum()) < 0.02
    assert torch.allclose(demodulate(left * torch.polar(torch.tensor(1.0), torch.tensor(2.0)), torch.full((1, 2), 30.0)),
                          demodulate(left, torch.full((1, 2), 30.0)), atol=1e-5)  # fmt: skip
    maps = loop_coils(shape, 6)
    kspace = simulate_kspace(x[0, 0].numpy(), maps, 1e-4, np.random.default_rng(0))
    mask = np.zeros(shape[1], dtype=bool)
    mask[centred(shape[1], 10)] = True
    estimated = espirit_maps(kspace * mask, mask, noise_std=1e-4)
    combined = (estimated.conj().resolve_conj() * torch.from_numpy(from_kspace(kspace))).sum(0)
    inside = (estimated != 0).any(0) & (magnitude[0, 0] > 0.2)
    turned = (combined * left[0, 0].conj())[inside]
    # Both take the phase of a low-resolution image away; the maps' is weighted by the coils, which is smooth as well.
    assert float(turned.angle().abs().median()) < 0.05


def test_augmented_images_are_demodulated_in_the_share_that_is_asked_for():
    torch.manual_seed(0)
    image = torch.from_numpy(200 * np.abs(blobs((64, 64)))).float()[None, None].repeat(60, 1, 1, 1)
    for share in (0.0, 0.5, 1.0):
        out = Augment(crop=64, demodulated=share, anatomical=0.0, fat=0.0)(image)
        real = (out[:, 1].square().sum((1, 2)) / out.square().sum((1, 2, 3))) < 0.05
        # A random constant phase is real within 5 % in one of seven; the deviation of 60 draws is 4 more.
        assert (share - 0.1) * 60 <= int(real.sum()) <= 60 * (share + (1 - share) * 0.4)


# Complex images

STILL = {"zoomed": 0.0, "rotated": 0.0, "flipped": 0.0, "gain": 0.0, "shading": 0.0, "unit": 1.0}


def complex_slices(n=6, shape=(40, 36)):
    x = torch.stack([torch.from_numpy(blobs(shape, k)) for k in range(n)])
    return torch.stack([x.real, x.imag], dim=1).float()


def test_complex_images_keep_their_phase_up_to_a_constant():
    torch.manual_seed(0)
    stored = complex_slices()
    out = Augment(crop=36, **STILL)(stored)
    x = torch.complex(out[:, 0], out[:, 1])
    matches = []
    for first in range(5):  # the crop begins at one of five rows
        reference = torch.complex(stored[:, 0], stored[:, 1])[:, first : first + 36]
        product = (x * reference.conj()).flatten(1)
        norms = x.flatten(1).norm(dim=1) * reference.flatten(1).norm(dim=1)
        matches.append(product.sum(1).abs() / norms)  # 1 if one factor relates them
    assert torch.stack(matches).amax(0).min() > 1 - 1e-5  # float32
    angles = (x[:, 18, 18] / torch.complex(stored[:, 0], stored[:, 1])[:, 18, 18]).angle()
    assert angles.std() > 0.3  # the factor is another one for every image


def test_complex_images_are_resampled_as_their_parts_are():
    """All linear steps act on real and imaginary part alike."""
    torch.manual_seed(3)
    stored = complex_slices()
    settings = {**STILL, "zoomed": 1.0, "rotated": 0.5, "flipped": 0.5, "shading": 0.2}
    torch.manual_seed(7)
    two = Augment(crop=24, kind="magnitude", **settings)(stored)
    torch.manual_seed(7)
    real = Augment(crop=24, kind="real", **settings)(stored[:, :1])
    torch.manual_seed(7)
    imaginary = Augment(crop=24, kind="real", **settings)(stored[:, 1:])
    assert torch.allclose(two, torch.hypot(real, imaginary), atol=1e-5)  # values about 1 in float32


def test_half_of_the_magnitudes_are_real_parts_where_asked_for():
    torch.manual_seed(0)
    out = Augment(crop=24, kind="magnitude", signed=0.5, **STILL)(complex_slices(40))
    negative = (out < -1e-6).flatten(1).any(1).float().mean()
    assert 0.2 < negative < 0.8  # 40 draws of 1/2: standard deviation 0.08


def test_ct_has_no_complex_images():
    with pytest.raises(ValueError, match="need images with one channel"):
        Augment(crop=8, kind="real")(complex_slices())


def test_half_precision_is_read():
    torch.manual_seed(0)
    exact = Augment(crop=24)(complex_slices())
    torch.manual_seed(0)
    half = Augment(crop=24)(complex_slices().half())
    assert half.dtype == torch.float32 and (half - exact).abs().max() < 1e-3 * exact.abs().max()


# Crops


def test_crops_are_the_same_for_all_images_of_an_item():
    torch.manual_seed(0)
    image = torch.arange(20 * 30.0).view(1, 1, 20, 30).expand(50, 1, 20, 30)
    data = Crops(crop=8, rotated=0.5, flipped=0.5)({"image": image, "clean": 2 * image, "noise_std": torch.ones(50)})
    assert data["image"].shape == (50, 1, 8, 8) and torch.equal(data["clean"], 2 * data["image"])
    assert torch.equal(data["noise_std"], torch.ones(50))
    kinds = set()
    for crop in data["image"][:, 0]:
        dy, dx = (float(crop[1, 0] - crop[0, 0]), float(crop[0, 1] - crop[0, 0]))
        kinds.add((dy, dx))
        assert crop.max() - crop.min() == 7 * 31  # neighbouring pixels, no resampling
    # Rows are 30 apart: as they are, flipped, turned, turned and flipped.
    assert kinds == {(30.0, 1.0), (30.0, -1.0), (-1.0, 30.0), (-1.0, -30.0)}


def test_crops_take_one_of_several_sizes_and_keep_small_sides():
    torch.manual_seed(0)
    image = torch.zeros(2, 1, 12, 40)
    shapes = {tuple(Crops(crop=[8, 16])({"image": image})["image"].shape[2:]) for _ in range(20)}
    assert shapes == {(8, 8), (12, 16)}
    scalar = {"noise_std": torch.ones(2)}
    assert Crops(crop=8)(scalar) is scalar
