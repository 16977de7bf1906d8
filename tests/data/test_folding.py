"""An object larger than the field of view needs two sets of coil maps; sigpy's own maps."""

import numpy as np
import pytest
import torch

from medrecon.data.coils import from_kspace, to_kspace
from medrecon.data.errors import InputError
from medrecon.data.espirit import Espirit, choose_sets, coil_maps, espirit_maps, sigpy_maps, trusted_noise
from medrecon.data.masks import centred, undersampling_mask
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.formats import load_kspace
from medrecon.operators import MulticoilMRI, SoftSense
from medrecon.transforms import EstimateSensitivityMaps


def scan(data_folder, name="brain_t1_8ch_sliceA.h5"):
    return load_kspace(data_folder / "kspace" / name).kspace[:1]


def cropped(kspace, factor, axis):
    """K-space of a field of view of ``factor`` of the size along an axis: what is outside folds over."""
    images = np.moveaxis(from_kspace(kspace), axis, 0)
    n = len(images)
    kept = 2 * round(factor * n / 2)
    out = np.zeros((kept, *images.shape[1:]), images.dtype)
    np.add.at(out, (np.arange(n) - n // 2 + kept // 2) % kept, images)
    return to_kspace(np.moveaxis(out, 0, axis)).astype(np.complex64)


def chosen(kspace, mask):
    mask = np.broadcast_to(mask, kspace.shape[2:])
    return choose_sets(kspace * mask, mask, trusted_noise(1e9, kspace * mask, mask), "scan.h5")


def test_half_the_field_of_view_is_every_second_line(data_folder):
    """The helper of these tests against the scanner's way to a small field of view."""
    kspace = scan(data_folder)[..., :228, :]
    assert np.allclose(cropped(kspace, 0.5, 2), kspace[:, :, ::2] * np.sqrt(2), atol=1e-5 * np.abs(kspace).max())


@pytest.mark.parametrize("factor, axis", [(0.6, 2), (0.8, 2), (0.7, 3), (0.8, 3)])
def test_a_head_larger_than_the_field_of_view_needs_two_sets(data_folder, factor, axis):
    kspace = cropped(scan(data_folder), factor, axis)
    shape = kspace.shape[2:]
    for mask in (np.ones(shape, bool), undersampling_mask(shape, "gaussian1d", 4, 24, 0)):
        number, text = chosen(kspace, mask)
        assert number == 2
        assert "scan.h5: the object is larger than the field of view" in text


def test_objects_inside_the_field_of_view_need_one_set(data_folder):
    whole = scan(data_folder)
    shape = whole.shape[2:]
    for accel, acs in ((1, 0), (4, 24), (8, 10)):
        mask = undersampling_mask(shape, "gaussian1d", accel, acs, 0) if accel > 1 else np.ones(shape, bool)
        assert chosen(whole, mask) == (1, "")
    for name in ("brain_gre_16ch_96.h5", "siemens/gre_real.mrd"):
        kspace = scan(data_folder, name)
        assert chosen(kspace, np.ones(kspace.shape[2:], bool)) == (1, "")
    y, x = (2 * (np.arange(n) - n // 2) / n for n in (160, 150))
    knee = ((y[:, None] ** 2 + x**2) < 0.7) * (1 + 0.3 * np.cos(9 * y[:, None]) * np.cos(7 * x))
    for coils, noise in ((8, 0.01), (15, 0.01), (8, 0.1)):
        kspace = simulate_kspace(knee, loop_coils(knee.shape, coils), noise, np.random.default_rng(0))[None]
        assert chosen(kspace, np.ones(knee.shape, bool)) == (1, "")
    assert chosen(whole[:, :1], np.ones(shape, bool)) == (1, "")  # a single coil


@pytest.mark.parametrize("accel, share", [(1, 0.6), (2, 0.4)])
def test_two_sets_leave_no_ghost(data_folder, accel, share):
    """CG-SENSE of a head that folds over, against the root of the sum of squares of the fully sampled coils.

    Relative errors of one and two sets were 0.059 and 0.026 from all data, 0.326 and 0.083 from half of the columns. Noise, which
    that root does not average, is most of what two sets leave.
    """
    kspace = cropped(scan(data_folder), 0.7, 3)
    shape = kspace.shape[2:]
    truth = np.sqrt((np.abs(from_kspace(kspace[0])) ** 2).sum(axis=0))
    mask = undersampling_mask(shape, "equispaced", accel, 24, 0) if accel > 1 else np.ones(shape, bool)
    mask = np.broadcast_to(mask, shape)
    error = {}
    for sets in (1, 2):
        found = coil_maps(kspace[0] * mask, mask, settings=Espirit(sets=sets))
        assert found.sets == sets
        sampled = torch.from_numpy(mask.copy()).float()[None, None]
        A = MulticoilMRI(found.maps[None], sampled) if sets == 1 else SoftSense(found.maps[None], sampled)
        image = A.pinv(torch.from_numpy(kspace * mask), n_iter=10)
        size = image.abs().square().reshape(-1, *shape).sum(0).sqrt().numpy()
        error[sets] = np.linalg.norm(size - truth) / np.linalg.norm(truth)
    assert error[2] < share * error[1]


# sigpy


def test_sigpys_maps_equal_ours_on_a_real_slice_and_an_odd_one(data_folder):
    real = scan(data_folder)[0]
    shape = (61, 53)
    y, x = (2 * (np.arange(n) - n // 2) / n for n in shape)
    blob = ((y[:, None] ** 2 + x**2) < 0.6) * (1 + 0.3 * np.cos(9 * y[:, None]))
    odd = simulate_kspace(blob, loop_coils(shape, 5), 1e-3, np.random.default_rng(0))
    for kspace in (real, odd):
        mask = np.zeros(kspace.shape[1:], bool)
        mask[tuple(centred(n, 24) for n in mask.shape)] = True
        theirs = EstimateSensitivityMaps(Espirit(method="sigpy"))(
            torch.from_numpy(kspace * mask)[None], mask=torch.from_numpy(mask)
        )
        assert theirs.meta["maps_source"] == "ESPIRiT (sigpy)"
        theirs, ours = theirs[0].numpy(), espirit_maps(kspace * mask, mask).numpy()
        size = np.sqrt((np.abs(from_kspace(kspace)) ** 2).sum(axis=0))
        inside = (size > 0.1 * size.max()) & ours.any(axis=0) & theirs.any(axis=0)
        assert inside.sum() > 0.98 * (size > 0.1 * size.max()).sum()
        cosine = (ours.conj() * theirs).sum(axis=0)[inside]
        # sigpy's power iteration ends after 100 steps, where close eigenvalues are not apart; ours goes on.
        assert np.abs(cosine).min() > 0.99
        assert np.quantile(np.abs(cosine), 0.01) > 0.9999
        assert np.quantile(np.abs(np.angle(cosine)), 0.99) < 0.02  # one convention for the phase


def test_sigpys_limits_are_named():
    kspace = np.ones((3, 20, 20), np.complex64)
    with pytest.raises(InputError, match="one set of maps, not 2"):
        Espirit(sets=2, method="sigpy")
    with pytest.raises(InputError, match="choose espirit or sigpy"):
        Espirit(method="bart")
    mask = np.zeros((20, 20), bool)
    mask[:, 8:12] = True
    with pytest.raises(InputError, match=r"scan\.h5: the fully sampled centre has 4 lines"):
        sigpy_maps(kspace * mask, mask, name="scan.h5")
    assert not sigpy_maps(0 * kspace, np.ones((20, 20), bool)).any()
