"""Transforms that load k-space and prepare it."""

import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.data.noise import estimate_noise_std
from medrecon.formats import load_kspace
from medrecon.transforms import (
    EstimateSensitivityMapsd,
    LoadKSpaced,
    UndersampleKSpaced,
)


def test_load_undersample_and_estimate(scan):
    path, _ = scan(full=True, slices=2)
    loaded = LoadKSpaced("image")({"image": path})
    assert loaded["image"].dtype == torch.complex64
    assert loaded["image"].shape == (2, 4, 40, 36)
    assert np.array_equal(loaded["image"].numpy(), load_kspace(path).kspace)
    assert loaded["image"].meta["affine_known"] is False
    one = UndersampleKSpaced("image", "random", 3, 8, seed=1)(loaded)
    assert np.array_equal(one["image"].numpy(), loaded["image"].numpy() * one["mask"].numpy())
    assert one["image"].meta["acceleration"] == pytest.approx(36 / 12)
    assert one["noise_std"] == pytest.approx(estimate_noise_std(one["image"].numpy(), one["mask"].numpy()))
    with pytest.raises(InputError, match="undersampled already"):
        UndersampleKSpaced("image", "random", 3, 8)(one)
    assert torch.equal(one["mask"], UndersampleKSpaced("image", "random", 3, 8, seed=1)(loaded)["mask"])
    other = dict(loaded)
    other["image"] = loaded["image"].clone()
    other["image"].meta["filename_or_obj"] = "another.h5"
    assert not torch.equal(one["mask"], UndersampleKSpaced("image", "random", 3, 8, seed=1)(other)["mask"])
    maps = EstimateSensitivityMapsd("image")(one)["maps"]
    del one["mask"]
    assert torch.equal(EstimateSensitivityMapsd("image")(one)["maps"], maps)
    assert torch.allclose(maps.abs().square().sum(1).amax(), torch.tensor(1.0), atol=1e-4)
