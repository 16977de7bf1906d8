"""From a problem and a prior to images: scale, batches, layout, conditions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import medrecon
from medrecon import posterior
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.networks import ResidualUNet
from medrecon.posterior import sampling
from medrecon.problems import physics_of, problem
from medrecon.reconstruction import plan
from medrecon.settings import SamplingSettings
from medrecon.solvers import DDS
from tests.make import toys
from tests.make.priors import toy_prior

from .make.toys import cartesian, columns, solve, spec


def test_scaling_the_data_scales_the_image(scan):
    path, _ = scan()
    data = load_kspace(path)
    one = medrecon.reconstruct(data.kspace, data.mask, steps=4)
    thousand = medrecon.reconstruct(data.kspace * 1000, data.mask, steps=4)
    # The same arithmetic up to float32 rounding, which the bfloat16 network may enlarge.
    assert np.abs(thousand.image / 1000 - one.image).max() < 0.02 * one.image.max()


def test_chunks_do_not_change_the_result(scan):
    path, _ = scan(slices=3)
    data = load_kspace(path)
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)

    def run(**settings):
        made = plan(data, bundle=toy_prior(network), steps=4, sigma_max=1.0, noise_std=0.01, **settings)
        made.sampling = replace(made.sampling, dtype=None)
        return made.run()

    assert np.allclose(run(chunk=1).image, run(chunk=3).image, atol=1e-4)
    several = run(chunk=2, samples=3).samples
    assert np.allclose(several[0], run(chunk=1).image, atol=1e-4)
    assert "seconds" in run().record


def test_the_ladder_is_that_of_the_solver():
    """RePaint travels in time within the steps that were asked for."""

    def planned(**more):
        return sampling(SamplingSettings(solver="repaint", **more), toy_prior())

    solve = planned(steps=50, settings={"length": 2, "repeats": 3}, sigma_max=1.0)
    assert (solve.sigmas.diff() > 0).any()
    assert 40 <= int((solve.sigmas.diff() < 0).sum()) <= 50
    assert float(solve.sigmas.max()) == pytest.approx(1.0)
    assert (planned(settings={"repeats": 1}).sigmas.diff() < 0).all()
    assert len(planned(settings={"repeats": 1}, steps=7).sigmas) == 8


def test_what_suits_the_prior_gives_way_to_what_the_user_says():
    tuned = {"dps": {"zeta": 0.03, "sigma_max": 2.0}, "tv": {"lam": 0.5}}

    def planned(**more):
        return sampling(SamplingSettings(**more), toy_prior(tuned=tuned))

    plain = planned(solver="dps")
    assert (plain.solver.zeta, float(plain.sigmas[0])) == (0.03, pytest.approx(2.0))
    said = planned(solver="dps", settings={"zeta": 0.07}, sigma_max=1.0)
    assert (said.solver.zeta, float(said.sigmas[0])) == (0.07, pytest.approx(1.0))
    assert float(plain.sigmas[-2]) == pytest.approx(toy_prior().sigma_min)
    assert float(planned(solver="dps", sigma_min=0.1).sigmas[-2]) == pytest.approx(0.1)
    assert planned(solver="dds").solver == DDS()
    assert planned(start="tv", start_sigma=0.1).start.solver.lam == 0.5
    assert tuned == {"dps": {"zeta": 0.03, "sigma_max": 2.0}, "tv": {"lam": 0.5}}


BLOCK = {"ald": {"sigma_max": 3.0, "sigma_min": 0.02, "steps": 30, "step_size": 0.5, "n_inner": 2}}


def with_blocks(**more):
    return sampling(
        SamplingSettings(solver="ald", **more), toy_prior(tuned={"ald": {"step_size": 0.9}}, posterior=BLOCK)
    )


def test_posterior_settings_replace_those_tuned_for_the_best_image():
    tuned, posterior = with_blocks(), with_blocks(posterior=True)
    assert (tuned.block, tuned.solver.step_size, tuned.solver.n_inner, tuned.steps) == ("tuned", 0.9, 3, 50)
    assert (posterior.block, posterior.solver.step_size, posterior.solver.n_inner) == ("posterior", 0.5, 2)
    assert (posterior.steps, len(posterior.sigmas)) == (30, 16)  # two evaluations a step
    assert posterior.sigmas[[0, -2]].tolist() == pytest.approx([3.0, 0.02])
    assert sampling(SamplingSettings(solver="dds"), toy_prior(posterior=BLOCK)).block is None
    assert BLOCK["ald"]["steps"] == 30  # the prior is unchanged


def test_what_the_user_gives_overrides_posterior_settings():
    made = with_blocks(
        posterior=True, steps=8, sigma_min=0.1, sigma_max=1.0, settings={"step_size": 0.25}, samples=3, seed=4
    )
    assert (made.block, made.steps, made.solver.step_size, made.solver.n_inner) == ("posterior", 8, 0.25, 2)
    assert made.sigmas[[0, -2]].tolist() == pytest.approx([1.0, 0.1])
    assert (len(made.sigmas), made.n_samples, made.seed) == (5, 3, 4)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"solver": "dps"}, "no settings for posterior samples of solver 'dps'; choose one of ald"),
        ({"solver": "tv"}, "no settings for posterior samples of solver 'tv'; choose one of ald"),
        ({"start": "tv", "start_sigma": 0.1}, "a warm start draws no samples of the posterior"),
        ({"posterior": 1}, "must be true or false; got 1"),
        ({"posterior": "true"}, "must be true or false, not text .*--posterior True.; got 'true'"),
        ({"settings": {"step_size": 2.0}}, "step_size"),
        ({"sigma_min": 5.0}, "at least the last level"),
    ],
)
def test_posterior_settings_that_cannot_be_used_are_refused(more, words):
    with pytest.raises(InputError, match=words) as caught:
        sampling(SamplingSettings(**{"solver": "ald", "posterior": True, **more}), toy_prior(posterior=BLOCK))
    assert str(caught.value).isprintable()


def test_a_prior_without_posterior_settings_says_so():
    with pytest.raises(
        InputError,
        match=r"bundle toy has no settings for posterior samples .*; leave posterior out, or choose another bundle$",
    ):
        sampling(SamplingSettings(solver="ald", posterior=True), toy_prior())


def test_settings_for_the_best_image_of_a_kind_of_scan_leave_posterior_settings_alone():
    """Denoising has weights of DDS for the best image; they are not mixed with settings for samples."""
    block = {"dds": {"kernel": "ddim", "sigma_scale": 1.0, "sigma_max": 4.0}}
    picture = toys.images(toys.picture())
    made = [
        plan(
            picture, bundle=toys.spec("magnitude", posterior=block), posterior=posterior, task="denoise", noise_std=20.0
        )
        for posterior in (False, True)
    ]
    assert [one.sampling.solver.prior_weight for one in made] == [0.5, DDS().prior_weight]
    assert [float(one.sampling.sigmas[0]) for one in made] == pytest.approx([1.5, 4.0])
    assert [one.run().record["settings_block"] for one in made] == ["tuned", "posterior"]


def test_runs_that_start_from_the_image_draw_no_posterior_samples():
    prior = toys.spec("magnitude", posterior={"diffpir": {}})
    made = plan(
        toys.images(toys.picture()),
        bundle=prior,
        solver="diffpir",
        posterior=True,
        noise_model="rician",
        noise_std=20.0,
    )
    with pytest.raises(InputError, match="start from the image"):
        made.run()


def test_slices_without_signal_stay_empty(scan):
    path, _ = scan(slices=2)
    kspace = load_kspace(path).kspace.copy()
    kspace[0] = 0
    result = medrecon.reconstruct(kspace, load_kspace(path).mask, steps=2)
    assert (result.image[0] == 0).all()
    assert result.image[1].max() > 0.5


def test_any_memory_layout_and_any_slices(scan):
    path, _ = scan(slices=3)
    data = load_kspace(path)
    plain = medrecon.reconstruct(data.kspace, data.mask, steps=2)
    moved = medrecon.reconstruct(np.asfortranarray(data.kspace), data.mask, steps=2)
    assert np.array_equal(plain.image, moved.image)
    backwards = medrecon.reconstruct(data.kspace, data.mask, steps=2, slices=slice(None, None, -2))
    assert np.array_equal(backwards.image, plain.image[::-2])
    assert backwards.record["slices"] == [2, 0]


def test_progress_reaches_its_end(scan):
    path, _ = scan(slices=2)
    data = load_kspace(path)
    # Two slices, whose two samples run as one batch, or one by one.
    for chunk, steps in ((None, 6), (1, 12)):
        seen: list[tuple[int, int]] = []

        def watch(i, n, seen=seen):
            seen.append((i, n))

        medrecon.reconstruct(data.kspace, data.mask, steps=3, samples=2, chunk=chunk, progress=watch)
        assert seen[-1][0] == seen[-1][1] == len(seen) == steps


def test_condition_reaches_the_network_and_is_recorded(scan):
    path, _ = scan()
    kspace = load_kspace(path).kspace

    def run(**more):
        return medrecon.reconstruct(kspace, steps=3, settings={"eta": 0.0}, **more)

    plain, conditioned, ignored = run(), run(condition="T2"), run(condition="T2", guidance=0.0)
    assert np.array_equal(plain.image, ignored.image)  # guidance 0 is the unconditional prior
    assert plain.record["condition"] is None and conditioned.record["condition"] == "T2"
    assert conditioned.record["network_evaluations"] == plain.record["network_evaluations"] == 3
    strong = run(condition="T2", guidance=3.0)
    assert strong.record["network_evaluations"] == 6
    assert not np.array_equal(conditioned.image, plain.image) and not np.array_equal(conditioned.image, strong.image)
    with pytest.raises(InputError, match=r"conditions T1, T1Gd, T2, FLAIR; got 'PD'"):
        run(condition="PD")
    with pytest.raises(InputError, match="give a condition"):
        run(guidance=2.0)
    with pytest.raises(InputError, match="takes no condition"):
        run(condition="T2", bundle="brain_mri_magnitude")


def test_magnitude_prior_reconstructs_channel_by_channel(scan):
    path, truth = scan()
    result = medrecon.reconstruct(load_kspace(path).kspace, bundle="brain_mri_magnitude", steps=4)
    assert result.record["network_evaluations"] == 8
    assert result.record["bundle"]["name"] == "brain_mri_magnitude"
    assert scores(result.image, truth)["psnr"] > 15  # the object, not noise; quality is for the benchmarks


def one_coil(slices=2, noise=0.05):
    """A single-coil scan of 12 x 11 pixels, of which every second column was measured."""
    scan, *_ = cartesian((12, 11), coils=1, slices=slices, noise=noise, mask=columns((12, 11), acs=3))
    return scan


ONE_COIL = {"maps": np.ones((1, 12, 11), np.complex64), "noise_std": 0.05}


@pytest.mark.parametrize("solver", ["tds", "fps", "mcgdiff", "ddsmc"])
def test_particles_are_weighted_recorded_and_handed_out_with_equal_weights(solver):
    made = solve(one_coil(), solver, physics=ONE_COIL, particles=6, samples=4, steps=8)
    facts = made.record["particles"]
    assert facts["number"] == 6 and made.record["samples"] == 4
    assert made.record["network_evaluations"] == 2 * 6 * 8
    weights = np.exp(np.array(facts["log_weights"]))
    assert weights.shape == (2, 6) and np.allclose(weights.sum(1), 1, atol=1e-3)
    assert np.shape(facts["ess"]) == (2, 9)  # before every resampling, and at the end
    assert np.allclose(np.array(facts["ess"])[:, -1], 1 / (weights**2).sum(1), rtol=1e-3)
    assert facts["smallest_ess"] == np.min(facts["ess"])
    assert np.isfinite(facts["log_evidence"]).all() and len(facts["log_evidence"]) == 2
    assert made.samples is not None and made.samples.shape == (4, 2, 12, 11)
    # Of equal weights, all six are the samples if as many are asked for; the image does not depend on their number.
    six, four = (
        solve(one_coil(), solver, physics=ONE_COIL, particles=6, samples=n, steps=8, settings={"least_ess": 6.0})
        for n in (6, 4)
    )
    assert np.array_equal(six.image, four.image) and np.array_equal(six.phase, four.phase)
    for k in range(2):
        every, some = ({one.tobytes() for one in made.samples[:, k]} for made in (six, four))
        assert len(every) == 6 and len(some) == 4 and some < every


def test_a_slice_with_particles_does_not_depend_on_its_neighbours():
    """Exactly, for image, phase, samples, weights and evidence."""
    both = solve(one_coil(), "ddsmc", physics=ONE_COIL, particles=5, samples=2, steps=6)
    for k in range(2):
        one = solve(
            one_coil(), "ddsmc", physics={**ONE_COIL, "slices": slice(k, k + 1)}, particles=5, samples=2, steps=6
        )
        assert np.array_equal(both.image[k], one.image[0])
        assert np.array_equal(both.samples[:, k], one.samples[:, 0])
        for key in ("log_weights", "ess", "log_evidence"):
            assert both.record["particles"][key][k] == one.record["particles"][key][0]


def test_the_image_is_the_weighted_mean_of_magnitudes(monkeypatch):
    """Of particles with unequal weights; the phase is that of the weighted mean of complex images."""
    seen = []
    original = posterior._mean_and_samples
    monkeypatch.setattr(posterior, "_mean_and_samples", lambda *a: seen.append(a) or original(*a))
    made = solve(one_coil(slices=1), "ddsmc", physics=ONE_COIL, particles=5, steps=6)
    (values, weighted), (images, _) = seen
    weights = torch.tensor(made.record["particles"]["log_weights"][0]).exp()
    assert weights.max() > 1.2 * weights.min()
    assert np.allclose(made.image[0], (weights[:, None, None] * values[:, 0]).sum(0), atol=1e-4)
    phase = (weights[:, None, None] * images[:, 0]).sum(0).angle().numpy()
    assert np.allclose(np.exp(1j * made.phase[0]), np.exp(1j * phase), atol=1e-2)
    assert made.samples is None and weighted[0].chosen.shape == (1, 1)


def test_a_warning_says_that_particles_degenerated(caplog):
    """Many measurements of little noise and few levels leave one of two particles; many particles and much noise do not."""
    made = solve(one_coil(slices=1), "tds", physics=ONE_COIL, particles=2, steps=4)
    (text,) = [text for text in made.record["warnings"] if "effective sample size" in text]
    assert "fell to 1.0 of 2 particles" in text and "use more particles" in text and text in caplog.text
    kept = solve(one_coil(slices=1), "tds", physics=ONE_COIL, particles=2, steps=4, settings={"least_ess": 2.0})
    assert kept.record["particles"]["tempered"] == [True] and made.record["particles"]["tempered"] == [False]
    assert any("weights were tempered (least_ess)" in text for text in kept.record["warnings"])
    assert np.allclose(kept.record["particles"]["log_weights"], np.log(0.5), atol=1e-3)
    scan = one_coil()
    scan.kspace[1] = 0
    [text] = solve(scan, "tds", physics=ONE_COIL, particles=2, steps=4).record["warnings"]
    assert text.endswith("such as dds (slice 0)")  # the other is empty
    calm = solve(one_coil(slices=1), "ddsmc", physics={**ONE_COIL, "noise_std": 50.0}, particles=8, steps=4)
    assert calm.record["particles"]["smallest_ess"] > 2
    assert not [text for text in calm.record["warnings"] if "effective sample size" in text]


def test_numbers_of_particles():
    def planned(solver="tds", **more):
        return sampling(SamplingSettings(solver=solver, **more), toy_prior())

    assert planned().n_particles == 8
    assert planned(samples=12).n_particles == 12
    assert planned(particles=3).n_particles == 3
    assert planned("dds").n_particles == 1
    with pytest.raises(
        InputError, match=r"'dds' has no particles; omit particles, or choose one of tds, tds-isotropic, fps"
    ):
        planned("dds", particles=8)
    with pytest.raises(InputError, match="9 samples are chosen from as many particles or more; got 8 particles"):
        planned(samples=9, particles=8)
    with pytest.raises(InputError, match="a start from an estimate would count twice; omit it"):
        planned(start="cg-sense", start_sigma=0.5)
    with pytest.raises(InputError, match="'fps' computes its own initial estimate; omit start"):
        planned("fps", start="cg-sense", start_sigma=0.5)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(InputError, match="particles"):
            planned(particles=wrong)
    assert solve(one_coil(slices=1), "dds", physics=ONE_COIL, steps=2).record["particles"] is None
    assert solve(one_coil(slices=1), "tds", physics=ONE_COIL, steps=2, particles=1).samples is None


def test_solvers_with_singular_values_refuse_several_coils():
    scan, _, maps = cartesian((12, 11), coils=3, slices=1, noise=0.05)
    with pytest.raises(
        InputError, match=r"FPS needs a Spectral operator \(.*\); got .*, which DDS or DDNM can work with"
    ):
        solve(scan, "fps", physics={"maps": maps[None], "noise_std": 0.05}, steps=3)
    made = solve(scan, "tds", physics={"maps": maps[None], "noise_std": 0.05}, steps=3, particles=2)
    assert np.isfinite(made.image).all()


def test_progress_counts_one_run_per_slice():
    steps = []
    plan = sampling(SamplingSettings(solver="ddsmc", steps=4, samples=6), spec())
    posterior.run(
        problem(one_coil(), physics_of(one_coil(), **ONE_COIL)), spec(), plan, progress=lambda *a: steps.append(a)
    )
    assert steps == [(i + 1, 8) for i in range(8)]


class RowCount:
    """An objective whose prior reports the shapes of the images that it is given."""

    def __init__(self):
        self.shapes = []

    def prior(self, network, multiple=16, dtype=None):
        def mean(x, sigma):
            self.shapes.append(tuple(x.shape[2:]))
            return x / (1 + torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1)) ** 2)

        return mean


def planes_spec(**more):
    return spec(objective=RowCount(), trained_planes=("axial", "coronal", "sagittal"), **more)


def test_a_level_takes_one_plane_of_a_volume_and_the_record_has_them():
    """36 x 31 pixels, 5 slices: every level gives the network the images of one plane, and over 24 levels all of them."""
    scan, *_ = cartesian(slices=5, noise=0.01)
    prior = planes_spec()
    made = plan(scan, bundle=prior, volume=True, planes="coronal, axial,sagittal", steps=24).run()
    assert set(prior.objective.shapes) == {(36, 31), (5, 31), (5, 36)}
    pixels = 5 * 36 * 31
    sizes = {(36, 31): 5, (5, 31): 36, (5, 36): 31}
    levels = sum(prior.objective.shapes.count(shape) * np.prod(shape) * min(sizes[shape], 10**9) for shape in sizes)
    assert levels >= 24 * pixels  # in batches of at most as many images as there are
    assert made.record["planes"] == ["coronal", "axial", "sagittal"]
    assert made.record["options"]["planes"] == "coronal, axial,sagittal"
    again = plan(scan, bundle=planes_spec(), volume=True, planes="coronal,axial,sagittal", steps=24).run()
    assert np.array_equal(made.image, again.image)


@pytest.mark.parametrize(
    ("planes", "physics", "words"),
    [
        ("coronal", {}, "reconstructed one by one; leave planes out, or reconstruct a volume"),
        (
            "corona",
            {"volume": True},
            "planes must be some of axial, coronal, sagittal, separated by commas; got 'corona'",
        ),
        ("axial,axial", {"volume": True}, "planes must be some of"),
        ("", {"volume": True}, "planes must be some of"),
        (3, {"volume": True}, "planes must be some of"),
    ],
)
def test_planes_that_cannot_be_used_are_refused(planes, physics, words):
    scan, *_ = cartesian(slices=3, noise=0.01)
    with pytest.raises(InputError, match=words):
        plan(scan, bundle=planes_spec(), planes=planes, steps=2, **physics)


def test_planes_are_those_of_the_training_images():
    scan, *_ = cartesian(slices=3, noise=0.01)
    with pytest.raises(InputError, match="trained on axial images, not on coronal ones; use the planes axial"):
        plan(scan, bundle=spec(), planes="axial,coronal", volume=True)


@pytest.mark.parametrize(("thickness", "refused"), [(1.0, False), (1.5, False), (1.6, True), (0.6, True), (5.0, True)])
def test_planes_across_thick_slices_are_refused(thickness, refused):
    """Pixels of a coronal plane are as high as a slice is thick; the training images have square ones."""
    scan, *_ = cartesian(slices=3, noise=0.01)
    scan = replace(scan, geometry=Geometry((thickness, 1.0, 1.0)))
    options = {"bundle": planes_spec(), "volume": True, "steps": 2}
    if refused:
        with pytest.raises(InputError, match=rf"voxels of {thickness:g} x 1 x 1 mm \(z, y, x\) make planes across"):
            plan(scan, planes="axial,coronal", **options)
    else:
        plan(scan, planes="axial,coronal", **options)
    plan(scan, **options)  # the slices themselves
