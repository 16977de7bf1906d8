"""The setting ``maps``: ``auto``, ``espirit``, ``joint``, or a file; from the scan to the record."""

import json
from dataclasses import replace

import numpy as np
import pytest

import medrecon
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.formats import save_fastmri
from medrecon.posterior import run, sampling
from medrecon.problems import physics_of, problem
from medrecon.settings import SamplingSettings, given_maps
from medrecon.solvers import SOLVERS

from ..make.toys import SHAPE, Smooth, cartesian, columns, frames, noncartesian, solve, spec

FEW = columns(acs=3)
PRIOR = spec(objective=Smooth(0.5))


def scan_of(mask=FEW, coils=6, **more):
    return cartesian(mask=mask, coils=coils, **{"noise": 0.01, "slices": 1, **more})


def error(found, truth):
    image, truth = found.image.astype(float), np.abs(truth)
    return np.linalg.norm(image * (image * truth).sum() / (image**2).sum() - truth) / np.linalg.norm(truth)


def dds(scan, steps=8, **more):
    return solve(scan, "dds", PRIOR, **{"steps": steps, **more})


def test_the_words_and_files_of_such_names():
    array = np.zeros(3)
    assert [given_maps(word) for word in ("auto", "espirit", "joint", None)] == [None] * 4
    assert given_maps("./joint") == "./joint"
    assert given_maps(array) is array


def test_auto_depends_on_the_calibration_lines():
    """ESPIRiT from 12 lines on."""
    for acs, source in ((9, "joint estimation (NLINV), updated"), (13, "ESPIRiT")):
        scan, *_ = scan_of(columns(acs=acs))
        assert dds(scan, 2).record["maps_source"].startswith(source)
    given = scan_of()[2]
    assert dds(scan_of()[0], 2, physics={"maps": given}).record["maps_source"] == "given"


def test_updates_improve_the_first_maps():
    """The prior corrects maps of NLINV from 3 calibration lines, given as fixed ones for comparison."""
    mask = columns(acs=1)
    mask[:, SHAPE[1] // 2 - 1 : SHAPE[1] // 2 + 2] = True
    scan, truth, _ = scan_of(mask, coils=8, noise=0.02)
    first = problem(scan, physics_of(scan, maps="joint")).suited_to(SOLVERS["cg-sense"]())
    fixed = dds(scan, physics={"maps": first.maps(slice(None)).numpy()})
    assert error(dds(scan), truth) < error(fixed, truth) + 0.01


def test_nlinv_implies_joint_estimation():
    scan, truth, _ = scan_of(coils=8)
    made = solve(scan, "nlinv")
    assert made.record["maps_source"] == "joint estimation (NLINV)"
    assert error(made, truth) < 0.15
    many = scan_of(columns(acs=13))[0]
    assert solve(many, "nlinv").record["maps_source"] == "joint estimation (NLINV)"
    with pytest.raises(InputError, match="leave out --maps espirit"):
        solve(many, "nlinv", physics={"maps": "espirit"})
    for physics in ({"maps": scan_of()[2]}, {"coil_images": "ssos"}):
        with pytest.raises(InputError, match="estimates the maps of several coils"):
            solve(many, "nlinv", physics=physics)
    with pytest.raises(InputError, match="several coils"):
        solve(scan_of(coils=1)[0], "nlinv")
    with pytest.raises(InputError, match="NLINV estimates coil maps"):
        solve(noncartesian(cartesian()[0]), "nlinv")


def test_requests_that_cannot_be_met():
    scan, *_ = scan_of()
    for physics, text in (
        ({"map_sets": "2"}, "a single set of maps"),
        ({"coil_images": "ssos"}, "leave out --coil-images"),
    ):
        with pytest.raises(InputError, match=text):
            dds(scan, physics={"maps": "joint", **physics})
    with pytest.raises(InputError, match="single coil"):
        dds(scan_of(coils=1)[0], physics={"maps": "joint"})
    with pytest.raises(InputError, match="weighs particles"):
        solve(scan, "tds", PRIOR, steps=3, physics={"maps": "joint"})
    for other in (noncartesian(cartesian()[0]), frames(cartesian(slices=1)[0])):
        with pytest.raises(InputError, match="for Cartesian k-space only"):
            dds(other, 2, physics={"maps": "joint"})
        assert dds(other, 2, physics={"maps": "auto"}).image.any()


def test_particle_and_classical_solvers_keep_the_first_maps():
    scan, *_ = scan_of()
    for solver, more in (("tds", {"steps": 3}), ("cg-sense", {})):
        made = solve(scan, solver, PRIOR, **more)
        assert made.record["maps_source"] == "joint estimation (NLINV)"
        assert not made.parameters


def test_several_samples_and_batches_equal_single_runs():
    scan, *_ = scan_of(slices=3)
    whole = dds(scan, 4, chunk=3)
    for i in range(3):
        one = dds(scan, 4, physics={"slices": slice(i, i + 1)})
        # Rounding of single precision, amplified by twenty conjugate-gradient iterations per update.
        assert np.allclose(one.image[0], whole.image[i], atol=5e-3 * one.image.max())
    made = dds(scan, 4, samples=2)
    assert made.samples.shape == (2, 3, *SHAPE)
    assert made.uncertainty is not None
    assert made.parameters["map_coefficients"].shape[:2] == (3, 6)
    assert np.array_equal(made.image, dds(scan, 4, samples=2).image)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_any_scale_and_double_precision(scale):
    scan, *_ = scan_of()
    one = dds(scan, 4)
    scaled = replace(scan, kspace=scan.kspace.astype(np.complex128) * scale)
    assert np.allclose(dds(scaled, 4).image / scale, one.image, atol=1e-3 * one.image.max())


def test_masks_by_slice():
    """Every slice is the slice alone with its mask."""
    masks = np.stack([columns(acs=5), np.roll(columns(acs=1), 1, axis=1)])
    masks[:, :, SHAPE[1] // 2 - 2 : SHAPE[1] // 2 + 3] = True
    scan, truth, _ = cartesian(coils=8, noise=0.01)
    physics = {"maps": "joint", "noise_std": 0.01}
    both = dds(scan, 4, physics={**physics, "mask": masks})
    assert error(both, truth) < 0.06
    for i, mask in enumerate(masks):
        alone = dds(scan, 4, physics={**physics, "mask": mask, "slices": slice(i, i + 1)})
        assert np.allclose(alone.image[0], both.image[i], atol=1e-4 * both.image.max())
    swapped = dds(scan, 4, physics={**physics, "mask": masks[::-1]})
    assert not np.allclose(swapped.image, both.image, atol=1e-2 * both.image.max())


def test_volumes():
    """A volume keeps its maps: NLINV's, or ESPIRiT's where classical solvers use it."""
    for acs, source in ((3, "joint estimation (NLINV)"), (9, "ESPIRiT")):
        made = dds(scan_of(columns(acs=acs), slices=2, coils=8)[0], 2, physics={"volume": True})
        assert made.record["maps_source"].startswith(source) and not made.parameters
    with pytest.raises(InputError, match="leave out --volume or --maps joint"):
        dds(scan_of()[0], 2, physics={"volume": True, "maps": "joint"})
    with pytest.raises(InputError, match="'nlinv' works slice by slice"):
        solve(scan_of()[0], "nlinv", physics={"volume": True})


def test_empty_slices_and_dead_coils():
    scan, truth, _ = scan_of(slices=2, coils=8)
    kspace = scan.kspace.copy()
    kspace[1] = 0
    made = dds(replace(scan, kspace=kspace), 4)
    assert not made.image[1].any()
    assert made.image[0].any()
    kspace = scan.kspace.copy()
    kspace[:, 3] = 0
    assert error(dds(replace(scan, kspace=kspace)), truth) < 0.2


def test_noise_without_signal_gives_an_empty_image():
    rng = np.random.default_rng(0)
    scan, *_ = scan_of(slices=2)
    kspace = scan.kspace.copy()
    kspace[1] = (0.01 * (rng.standard_normal(kspace[1].shape) + 1j * rng.standard_normal(kspace[1].shape))) * FEW
    made = dds(replace(scan, kspace=kspace), 3, physics={"noise_std": 0.01})
    assert not made.image[1].any()


def test_without_calibration_lines():
    """Two lines and more are used, with a warning; without them auto refuses, as ESPIRiT does, and joint warns."""
    mask = np.zeros(SHAPE, bool)
    mask[:, SHAPE[1] % 2 :: 2] = True
    scan = scan_of(mask, coils=8)[0]
    with pytest.raises(InputError, match="too small"):
        dds(scan, 2)
    for made in (dds(scan, 2, physics={"maps": "joint"}), solve(scan, "nlinv")):
        assert any("may be wrong" in text for text in made.record["warnings"])
    mask[:, SHAPE[1] // 2 - 1] = True
    scan, truth, _ = scan_of(mask, coils=8)
    made = dds(scan)
    assert error(made, truth) < 0.3
    assert any("2 lines" in text for text in made.record["warnings"])


def test_partial_fourier():
    mask = FEW.copy()
    mask[: SHAPE[0] // 4] = False
    scan, truth, _ = scan_of(mask, coils=8)
    assert error(dds(scan), truth) < 0.25


def test_whitened_and_compressed_coils():
    rng = np.random.default_rng(0)
    scan, truth, _ = scan_of(coils=8)
    noise = (0.01 * (rng.standard_normal((8, 4000)) + 1j * rng.standard_normal((8, 4000)))).astype(np.complex64)
    made = dds(replace(scan, noise_scan=noise), physics={"whiten": True, "compress": 5, "maps": "joint"})
    assert made.record["virtual_coils"] == made.parameters["map_coefficients"].shape[1] == 5
    assert error(made, truth) < 0.15


def test_a_warm_start():
    """From a classical solver, with the first maps."""
    scan, truth, _ = scan_of(coils=8)
    assert error(dds(scan, start="cg-sense", start_sigma=0.2), truth) < 0.12


def test_command_line(tmp_path, capsys):
    scan, *_ = scan_of()
    save_fastmri(tmp_path / "scan.h5", scan)
    common = ["recon", str(tmp_path / "scan.h5"), "-o", str(tmp_path / "o"), "--solver", "cg-sense", "--overwrite"]
    assert main([*common, "--maps", "joint"]) == 0
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["maps_source"] == "joint estimation (NLINV)"
    assert main([*common, "--maps", "./joint"]) == 2
    assert "joint" in capsys.readouterr().err
    (tmp_path / "joint").write_bytes(b"")  # a file of this name is given as ./joint
    assert main([*common, "--maps", "joint"]) == 0


def test_known_images_are_those_of_the_first_maps_on_any_path():
    """Python, and the problem itself."""
    scan, *_ = scan_of()
    made = medrecon.reconstruct(scan, solver="nlinv")
    physics = physics_of(scan, maps="joint")
    again = run(problem(scan, physics), spec(), sampling(SamplingSettings(solver="nlinv"), spec()))
    assert np.array_equal(made.image, again.image)
