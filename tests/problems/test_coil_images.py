"""An image per coil: the sum of squares and the hybrid form."""

import numpy as np
import pytest

from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError

from ..make.compare import relative_error
from ..make.toys import cartesian, solve


def test_an_image_per_coil_is_combined_by_the_sum_of_squares():
    scan, _, _ = cartesian()
    reference = np.sqrt((np.abs(from_kspace(scan.kspace)) ** 2).sum(1))
    found = solve(scan, "cg-sense", physics={"coil_images": "ssos"}, settings={"lam": 1e-9})
    assert relative_error(found.image, reference) < 1e-4
    assert found.record["maps_source"] == "none (an image per coil)"


def test_the_hybrid_form_is_one_of_score_mri():
    scan, truth, maps = cartesian(noise=1e-4)
    found = solve(
        scan,
        "scoremri",
        physics={"coil_images": "hybrid", "maps": maps},
        steps=20,
        settings={"period": 5},
        sigma_max=1.0,
    )
    assert relative_error(found.image, np.abs(truth)) < 0.01  # fully sampled, so the data decide
    with pytest.raises(InputError, match="scoremri"):
        solve(scan, "dds", physics={"coil_images": "hybrid", "maps": maps})


def test_ssos_takes_no_maps():
    scan, _, maps = cartesian()
    with pytest.raises(InputError, match="without maps"):
        solve(scan, physics={"coil_images": "ssos", "maps": maps})
