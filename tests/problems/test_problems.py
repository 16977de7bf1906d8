"""What every kind of scan has in common: suitable settings, refused options and data, types of arrays."""

from dataclasses import replace

import numpy as np
import pytest

from medrecon import reconstruct
from medrecon.data.errors import InputError
from medrecon.data.scan import Sinogram
from medrecon.reconstruction import plan

from ..make.toys import cartesian, frames, images, noncartesian, picture, sinogram, solve, spec

CT = {"image_size": 64, "voxel": 1.5}


def scan_of(kind):
    scan = cartesian(noise=0.01)[0]
    return {
        "k-space": scan,
        "trajectory": noncartesian(scan),
        "frames": frames(scan),
        "sinogram": sinogram("parallel"),
        "image": images(picture(noise=30.0)),
    }[kind]


KINDS = ("k-space", "trajectory", "frames", "sinogram", "image")


@pytest.mark.parametrize(
    "options",
    [
        {"slices": 1}, {"slices": (0, 2)}, {"slices": "0:1"}, {"slices": slice("a")}, {"slices": slice(0, 2, 0)},
        {"chunk": -1}, {"chunk": "2"}, {"noise_model": "gauss"},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_options_that_make_no_sense_are_refused(kind, options):
    scan = scan_of(kind)
    prior = spec("attenuation" if kind == "sinogram" else "magnitude" if kind == "image" else "complex")
    with pytest.raises(InputError, match=next(iter(options)).replace("_", " ")):
        reconstruct(scan, bundle=prior, solver="tv", **options)


def test_a_first_level_below_the_last_is_refused():
    with pytest.raises(InputError, match="sigma_max"):
        solve(scan_of("k-space"), "dds", steps=2, sigma_max=1e-6)


@pytest.mark.parametrize("kind", ["k-space", "trajectory", "frames"])
@pytest.mark.parametrize("n", [0, 2.0, "2"])
def test_the_number_of_virtual_coils_is_a_whole_number(kind, n):
    with pytest.raises(InputError, match="compress"):
        solve(scan_of(kind), physics={"compress": n})


@pytest.mark.parametrize("shape", [(2, 0, 8, 8), (2, 4, 8, 0)])
def test_an_array_without_samples_is_refused(shape):
    with pytest.raises(InputError, match="no samples"):
        reconstruct(np.zeros(shape, np.complex64), bundle=spec(), solver="cg-sense")


@pytest.mark.parametrize("kind", KINDS)
def test_type_and_strides_of_arrays_do_not_matter(kind):
    """Double precision, reversed views, column-major order: the same image."""
    scan, more = scan_of(kind), {}
    prior = spec("attenuation" if kind == "sinogram" else "magnitude" if kind == "image" else "complex")
    physics = {**(CT if kind == "sinogram" else {}), "noise_std": 30.0 if kind == "image" else 0.01}
    name = {"k-space": "kspace", "trajectory": "samples", "frames": "kspace", "sinogram": "sinogram", "image": "array"}[
        kind
    ]
    own = getattr(scan, name)
    wide = own.astype(complex if np.iscomplexobj(own) else float)
    if kind == "trajectory":
        more["trajectory"] = np.asfortranarray(scan.trajectory[:, ::-1].astype(float))[:, ::-1]
    if kind == "frames":
        more["mask"] = scan.mask[::-1].copy()[::-1]
    if kind == "sinogram":
        more["angles"] = scan.angles[::-1].copy()[::-1]
    axis = -1 if kind != "trajectory" else 2
    reverse = [slice(None)] * own.ndim
    reverse[axis] = slice(None, None, -1)
    strange = np.asfortranarray(wide[tuple(reverse)])[tuple(reverse)]
    first, other = (
        solve(one, "tv", prior, physics=physics).image for one in (scan, replace(scan, **{name: strange}, **more))
    )
    assert np.abs(first - other).max() <= 1e-4 * np.abs(first).max()  # single precision


@pytest.mark.parametrize(
    "scan",
    [
        replace(scan_of("trajectory"), samples=np.full((2, 4, 31, 36), np.nan, np.complex64)),
        replace(scan_of("trajectory"), samples=np.zeros((2, 4, 31, 36), np.complex64)),
        replace(scan_of("trajectory"), trajectory=np.full((2, 31, 36, 2), np.nan, np.float32)),
        replace(scan_of("trajectory"), matrix=(8, 8)),
        replace(scan_of("sinogram"), sinogram=np.full((1, 180, 96), np.nan, np.float32)),
        replace(scan_of("sinogram"), sinogram=np.full((1, 180, 96), 1e30, np.float32)),
    ],
    ids=["NaN", "zeros", "NaN points", "too far out", "NaN lines", "no line integrals"],
)
def test_data_that_cannot_be_used_are_refused(scan):
    prior = spec("attenuation" if isinstance(scan, Sinogram) else "complex")
    physics = CT if isinstance(scan, Sinogram) else {}
    with pytest.raises(InputError, match=r"^(toy|a)\.npz: .*(NaN|zeros|band|below)"):
        solve(scan, "tv", prior, physics=physics)


def test_the_option_of_another_kind_is_not_taken_for_a_misspelling():
    for kind, option, of in (("k-space", {"task": "superres"}, "an image"), ("trajectory", {"mask": "m"}, "Cartesian")):
        with pytest.raises(InputError, match=f"is an option of {of}"):
            reconstruct(scan_of(kind), bundle=spec(), solver="tv", **option)


def test_mistakes_in_a_config_are_refused():
    from medrecon.inferers import PosteriorInferer
    from medrecon.transforms import LoadScand

    with pytest.raises(InputError, match="names and values"):
        PosteriorInferer(spec(), ["compress"])
    with pytest.raises(InputError, match="leave bundle out"):
        PosteriorInferer(spec(), {"bundle": "brain_mri"})
    with pytest.raises(InputError, match="unknown companion 'traject'"):
        LoadScand("scan", companions={"traject": "a.npy"})


def test_a_classical_solver_has_no_condition():
    prior = spec(labels=("", "T1")).conditioned("T1")
    assert solve(scan_of("k-space"), "cg-sense", prior).record["condition"] is None


def test_settings_that_suit_the_kind_of_scan_give_way_to_the_users():
    scan, *_ = cartesian(slices=1)
    for one, given, expected in ((noncartesian(scan), {}, 2), (noncartesian(scan), {"n_cg": 7}, 7), (scan, {}, 10)):
        assert plan(one, bundle=spec(), solver="dds", settings=given).sampling.solver.n_cg == expected


def test_a_prior_of_another_kind_of_image_is_refused():
    scan, *_ = cartesian()
    for one, images_of in ((scan, "attenuation"), (sinogram("parallel"), "complex"), (images(picture()), "complex")):
        with pytest.raises(InputError, match="choose the bundle"):
            solve(one, "dds", spec(images_of), physics={"noise_std": 0.01})


def test_an_option_of_another_kind_of_scan_is_refused():
    scan, _, _ = cartesian()
    with pytest.raises(InputError, match="an option of a sinogram"):
        solve(scan, physics={"photons": 1e5})
