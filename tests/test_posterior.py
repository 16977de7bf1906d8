"""From a problem and a prior to images: scale, batches, layout, conditions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import medrecon
from medrecon.data.errors import InputError
from medrecon.formats import load_kspace
from medrecon.metrics import scores
from medrecon.networks import ResidualUNet
from medrecon.posterior import sampling
from medrecon.reconstruction import plan
from medrecon.settings import SamplingSettings
from medrecon.solvers import DDS
from tests.make import toys
from tests.make.priors import toy_prior


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
        ({"posterior": "posterior"}, "must be true or false"),
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
