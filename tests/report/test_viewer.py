"""The view of a volume: NiiVue as it was published, volumes that say where they are, and a page of bounded size."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrecon.data.scan import Geometry
from medrecon.report import viewer
from medrecon.report.case import VOLUME_SLICES
from medrecon.report.gather import case_of_images
from medrecon.report.page import page
from medrecon.report.viewer import SHA256, VERSION, library, quantised, volume_view

from ..make.cases import HOSTILE, record, volume_case

AFFINE = np.array([[-1.0, 0.2, 0, 5], [0.1, 1.5, 0.3, -7], [0, -0.3, 2.5, 11], [0, 0, 0, 1]])


def read(content):
    """A NIfTI file by nibabel: values ``(z, y, x)``, and affine."""
    image = nib.Nifti1Image.from_bytes(gzip.decompress(content))
    return image.get_fdata().transpose(2, 1, 0), image.affine, image.header


def blocks(html):
    """Data in a page by their identifiers."""
    return dict(re.findall(r'<script type="application/gzip;base64" id="([^"]+)">([^<]*)</script>', html))


# NiiVue


def test_niivue_is_the_published_file():
    assert hashlib.sha256(gzip.decompress(library())).hexdigest() == SHA256


def test_the_licences_name_the_version_and_stay_with_the_library_in_the_page():
    text = (viewer._FOLDER / "vendor" / "NIIVUE_LICENSES.txt").read_text()
    assert f"@niivue/niivue {VERSION}" in text
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    declared = re.search(r'^license = "(.*)"$', declared, re.M)[1].split(" AND ")
    headings = {"BSD 2-Clause": "BSD-2-Clause", "BSD 3-Clause": "BSD-3-Clause", "MIT": "MIT", "ISC": "ISC"}
    found = re.findall(r"^(.*) License$", text, re.M)
    assert sorted(declared) == sorted(["Apache-2.0", *(headings[name] for name in found)])
    html = volume_view(volume_case())
    assert "Copyright (c) 2021, Niivue" in html
    assert base64.b64decode(blocks(html)["vv-library"]) == library()


# Quantisation


def test_values_are_right_to_half_a_grey_level_and_clipped_beyond_the_window():
    volume = np.random.default_rng(0).uniform(-300, 300, (5, 6, 7))
    values, affine, header = read(quantised(volume, AFFINE, (-200.0, 250.0), 10**6).content)
    assert header.get_data_dtype() == np.uint8
    assert (
        np.abs(values - np.clip(volume, -200, 250)).max() <= 450 / 255 / 2 + 1e-3
    )  # slope is stored in single precision
    assert np.allclose(affine, AFFINE, atol=1e-5)
    assert (float(header["cal_min"]), float(header["cal_max"])) == (-200, 250)
    assert header["sform_code"] == 1 and header["qform_code"] == 0  # a quaternion cannot hold this shear


@pytest.mark.parametrize("window", [(3.0, 3.0), (0.0, 0.0)])
def test_constant_and_not_finite_values_are_shown(window):
    volume = np.full((3, 4, 5), 3.0)
    volume[0, 0, 0], volume[0, 0, 1], volume[0, 0, 2] = np.nan, np.inf, -np.inf
    values, _, _ = read(quantised(volume, AFFINE, window, 10**6).content)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("shape", [(12, 18, 24), (13, 17, 25)])
def test_larger_voxels_keep_the_position_of_what_they_show(factor, shape):
    """The centre of mass of a blob in mm, from the reduced volume and its affine, is that of the full one."""
    z, y, x = (np.arange(n) - 0.4 * n for n in shape)
    blob = np.exp(-(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) / (2 * 2.0**2))

    def centre(values, affine):
        index = np.stack(np.indices(values.shape)[::-1]).reshape(3, -1)
        place = affine[:3, :3] @ index + affine[:3, 3:]
        return place @ values.ravel() / values.sum()

    small = viewer._pooled(blob, factor, largest=False)
    assert small.shape == tuple(-(-n // factor) for n in shape)
    # The blob has fallen to 1e-2 or less at the edges, so that repeated edges move its centre by less than a tenth of a voxel.
    assert np.abs(centre(small, viewer._pooled_affine(AFFINE, factor)) - centre(blob, AFFINE)).max() < 0.15


def test_flags_survive_the_reduction():
    flags = np.zeros((9, 9, 9))
    flags[4, 4, 4] = 1
    assert viewer._pooled(flags, 2, largest=True).sum() == 1


def test_noise_costs_grey_levels_first_and_voxels_next():
    noise = np.random.default_rng(0).random((32, 32, 32))
    full = quantised(noise, AFFINE, (0.0, 1.0), 10**6)
    fewer = quantised(noise, AFFINE, (0.0, 1.0), int(0.9 * len(full.text)))
    coarse = quantised(noise, AFFINE, (0.0, 1.0), int(0.2 * len(full.text)))
    assert (full.factor, full.steps) == (1, 255)
    assert fewer.factor == 1 and fewer.steps < 255
    assert coarse.factor == 2
    for one, part in ((fewer, 0.9), (coarse, 0.2)):
        assert len(one.text) <= part * len(full.text) + 4  # base64 pads to 4 characters


def test_a_whole_page_of_a_noisy_head_is_below_12_megabytes():
    """Uniform noise cannot be compressed: the worst volume of the size of a head at 1 mm."""
    rng = np.random.default_rng(0)
    noise = rng.random((169, 238, 176), np.float32)
    maps = {"spread": noise, "flags": (noise > 0.5).astype(np.uint8)}
    case = case_of_images("noise", record(), image=noise, maps=maps, geometry=Geometry((1, 1, 1), np.eye(4)))
    assert len(page(case)) < 12_000_000


# The page


def test_only_volumes_of_known_voxel_size_have_a_view():
    volume = np.ones((VOLUME_SLICES, 4, 4), np.float32)
    assert volume_view(case_of_images("a", record(), image=volume, geometry=Geometry((1, 1, 1)))) != ""
    assert volume_view(case_of_images("a", record(), image=volume)) == ""
    assert volume_view(case_of_images("a", record(), image=volume[1:], geometry=Geometry((1, 1, 1)))) == ""
    frames = np.ones((VOLUME_SLICES, 1, 4, 4), np.float32)
    assert volume_view(case_of_images("a", record(), image=frames, geometry=Geometry((1, 1, 1)))) == ""


def test_the_volumes_in_a_page_are_those_of_the_case():
    case = volume_case()
    html = volume_view(case)
    data = blocks(html)
    assert set(data) == {"vv-image", "vv-spread", "vv-flags", "vv-library"}
    values, affine, _ = read(base64.b64decode(data["vv-image"]))
    low, high = case.window
    assert np.abs(values - np.clip(case.image, low, high)).max() <= (high - low) / 510 + 1e-3
    assert np.allclose(affine, case.geometry.affine, atol=1e-5)
    flags, _, _ = read(base64.b64decode(data["vv-flags"]))
    assert np.array_equal(np.rint(flags), case.maps["flags"])
    facts = json.loads(re.search(r'id="vv-facts">([^<]*)</script>', html).group(1))
    assert facts["oriented"] and [one["id"] for one in facts["volumes"]] == ["vv-image", "vv-spread", "vv-flags"]


def test_calibrated_samples_have_a_standard_deviation():
    case = volume_case()
    maps = {"std" if name == "spread" else name: values for name, values in case.maps.items()}
    html = volume_view(case_of_images("a", record(), image=case.image, maps=maps, geometry=case.geometry))
    assert "vv-std" in html and "vv-spread" not in html and "not calibrated" not in html


def test_an_unknown_orientation_is_stated_and_slices_are_shown_as_stored():
    """x runs towards the left of the patient and y towards the back: in the radiological convention, right and down."""
    volume = np.ones((VOLUME_SLICES, 4, 5), np.float32)
    html = volume_view(case_of_images("a", record(), image=volume, geometry=Geometry((3.0, 2.0, 1.5))))
    _, affine, _ = read(base64.b64decode(blocks(html)["vv-image"]))
    assert np.array_equal(affine, np.diag([-1.5, -2.0, 3.0, 1.0]))
    assert '"oriented": false' in html and "left and right are unknown" in html
    assert "vv-radiological" not in html.split('id="vv-facts"')[0]


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_an_affine_without_inverse_is_no_orientation(value):
    affine = np.diag([1.0, 1.0, value, 1.0])
    html = volume_view(replace(volume_case(), geometry=Geometry(None, affine)))
    _, stored, _ = read(base64.b64decode(blocks(html)["vv-image"]))
    assert np.isfinite(stored).all() and np.linalg.det(stored) > 0
    assert '"oriented": false' in html


@pytest.mark.parametrize("shape", [(16, 1, 1), (17, 3, 1), (300, 2, 5)])
def test_odd_sizes_are_stored_as_they_are(shape):
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    html = volume_view(case_of_images("a", record(), image=volume, geometry=Geometry((1, 1, 1), np.eye(4))))
    values, _, _ = read(base64.b64decode(blocks(html)["vv-image"]))
    assert values.shape == shape


def test_the_policy_of_a_page_names_the_library_and_its_script():
    content = page(volume_case(warnings=[HOSTILE])).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content).group(1)
    scripts = [one.encode() for one in re.findall(r"<script>(.*?)</script>", content, re.DOTALL)]
    scripts.append(gzip.decompress(library()))
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy
    assert policy.count("sha256-") == len(scripts) == 3
    assert "unsafe-eval" not in policy and "http" not in policy
