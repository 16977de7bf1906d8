"""The bundle: run by MONAI as by us, weights checked, metadata complete; and the transforms inside."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.metrics import SSIMMetric

import medrecon
from medrecon.bundle import (
    current_bundle_or,
    find_bundle,
    load_prior,
    load_weights,
    metadata,
    save_weights,
)
from medrecon.data.errors import InputError
from medrecon.data.masks import undersampling_mask
from medrecon.data.noise import estimate_noise_std
from medrecon.data.scan import Geometry
from medrecon.formats import load_kspace
from medrecon.metrics import SSIM, scores
from medrecon.networks import ResidualUNet
from medrecon.posterior import PriorSpec, network_prior, sampling
from medrecon.priors import equivariant
from medrecon.reconstruction import plan
from medrecon.settings import SamplingSettings
from medrecon.solvers import DDS
from medrecon.training.objectives import EDM, objective
from medrecon.transforms import (
    EstimateSensitivityMapsd,
    LoadKSpaced,
    UndersampleKSpaced,
)
from medrecon.weights import difference
from medrecon.writers.nifti import nifti_bytes

NAMES = ("brain_mri", "brain_mri_magnitude", "chest_ct")
LIMITS = {"brain_mri": 14e6, "brain_mri_magnitude": 8e6, "chest_ct": 10e6}
ROOT = find_bundle("brain_mri")
CONFIG = ROOT / "configs" / "inference.yaml"


def toy_prior(network=None, **more):
    """A prior with another network than the bundles'."""
    return PriorSpec(name="toy", version="1", weights_sha256="0", network=lambda: network, **more)


def monai_run(*arguments, cwd):
    command = [sys.executable, "-m", "monai.bundle", "run", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_monai_gives_the_image_that_medrecon_gives(scan, tmp_path):
    """From a foreign folder, by file name only."""
    path, _ = scan(slices=2)
    ours = medrecon.reconstruct(load_kspace(path).kspace, load_kspace(path).mask, steps=3, seed=4)
    out = monai_run(
        "--config_file", CONFIG, "--scan", path, "--output_dir", "out", "--n_steps", 3, "--seed", 4, cwd=tmp_path
    )
    assert out.returncode == 0, out.stderr[-2000:]
    image = np.asarray(nib.load(tmp_path / "out" / "scan.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.array_equal(image, ours.image)
    sidecar = json.loads((tmp_path / "out" / "scan.json").read_text())
    same = set(ours.record) - {"seconds", "input"}
    assert {key: sidecar[key] for key in same} == {key: ours.record[key] for key in same}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["train", "inference"])
def test_every_config_has_the_network_of_the_prior(name, kind):
    """A changed ``prior.yaml`` changes the network of training and inference, and the loaded prior has it."""
    root = find_bundle(name)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / f"{kind}.yaml"))
    parser["bundle_root"] = str(root)
    with_config = parser.get_parsed_content("network_def")
    prior, trained = load_prior(name), load_prior(name).network()
    assert difference(trained.state_dict(), with_config) is None
    assert parser.get_parsed_content("prior").labels == prior.labels
    if kind == "train":
        trained_for = [parser.get_parsed_content(key) for key in ("parameterization", "sigma_data")]
        assert objective(*trained_for) == prior.objective
    else:
        inferer = parser.get_parsed_content("inferer")
        assert (inferer.prior.objective, inferer.prior.symmetries) == (prior.objective, prior.symmetries)


def test_metadata_of_bundles_agree_with_their_priors():
    """What ``metadata.json`` tells other tools about the network is what ``prior.yaml`` has."""
    for name in NAMES:
        prior, facts = load_prior(name), metadata(find_bundle(name))
        for tensors in facts["network_data_format"].values():
            assert {tensor["num_channels"] for tensor in tensors.values()} == {prior.channels}
        assert tuple(facts.get("conditions", ())) == prior.labels[:-1]
        assert f"sigma_data {prior.objective.sigma_data}" in facts["image_unit"]


def test_a_copy_uses_its_own_weights(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    assert current_bundle_or("brain_mri") == ROOT
    monkeypatch.chdir(tmp_path)
    assert current_bundle_or("brain_mri") == tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_small_and_those_named(name):
    root = find_bundle(name)
    facts = metadata(root)
    assert (root / "docs" / "data_license.txt").is_file()
    weights = root / facts["weights"]["file"]
    assert weights.stat().st_size < LIMITS[name]
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == facts["weights"]["sha256"]
    state = torch.load(weights, weights_only=True)
    assert all(v.dtype == torch.float16 for v in state.values())


def test_damaged_weights_are_refused_on_every_path(scan, tmp_path):
    shutil.copytree(ROOT, tmp_path / "b")
    weights = tmp_path / "b" / "models" / "model.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(bytes(content))
    path, _ = scan()
    with pytest.raises(InputError, match="SHA-256"):
        load_weights(ResidualUNet(), tmp_path / "b")
    with pytest.raises(InputError, match="SHA-256"):
        medrecon.reconstruct(load_kspace(path).kspace, bundle=tmp_path / "b", steps=1)
    out = monai_run(
        "--config_file", CONFIG, "--bundle_root", tmp_path / "b", "--scan", path, "--output_dir", "o", cwd=tmp_path
    )
    assert out.returncode != 0
    assert "SHA-256" in out.stderr
    assert not (tmp_path / "o").exists()
    weights.unlink()
    with pytest.raises(InputError, match="missing"):
        load_weights(ResidualUNet(), tmp_path / "b")


def test_weights_round_trip_in_half_precision(tmp_path):
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1))
    save_weights(network, tmp_path)
    back = load_weights(ResidualUNet(channels=(8, 16), blocks=(1, 1)), tmp_path)
    for a, b in zip(network.state_dict().values(), back.state_dict().values(), strict=True):
        assert torch.equal(a.half().float(), b)
    assert not any(p.requires_grad for p in back.parameters())


# The network and its training


def test_network_starts_as_zero_and_blocks_as_identity():
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1))
    x = torch.randn(2, 2, 16, 8)
    assert torch.equal(network(x, torch.tensor([-100.0, 200.0])), torch.zeros_like(x))
    assert torch.equal(network.encoder[0][0](x.new_ones(1, 8, 4, 4), x.new_ones(1, 128)), x.new_ones(1, 8, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4"):
        network(torch.zeros(1, 2, 10, 8))


def test_network_items_are_independent_and_know_the_noise_level():
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(3, 2, 16, 8, dtype=torch.float64), torch.tensor([-100.0, 0.0, 200.0], dtype=torch.float64)
    together = network(x, t)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], network(x[i : i + 1], t[i : i + 1]), atol=1e-12)
    assert not torch.allclose(network(x, t), network(x, t + 20))


# Transforms and inferer


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


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_knows_what_suits_it(name):
    """Every solver that it names takes the settings that it gives."""
    prior = load_prior(name)
    for solver in prior.tuned:
        sampling(SamplingSettings(solver=solver), prior)
    assert "dds" in prior.tuned


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


# Metrics and writers


def test_ssim_is_monais_on_every_slice():
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(1, 3, 24, 20, generator=generator)
    x = y + 0.1 * torch.rand(1, 3, 24, 20, generator=generator)
    metric = SSIMMetric(2, data_range=float(y.max()), kernel_type="uniform", win_size=7)
    slices = [
        metric._compute_metric(x[:, i : i + 1], y[:, i : i + 1])
        for i in range(3)
    ]  # fmt: skip
    assert float(SSIM()._compute_metric(x, y)) == pytest.approx(float(torch.cat(slices).mean()), rel=1e-5)
    assert scores(y[0].numpy(), y[0].numpy())["ssim"] == pytest.approx(1.0, abs=1e-5)


def test_nifti_keeps_voxels_and_spacing(tmp_path):
    volume = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)
    affine = np.array([[-1.25, 0, 0, 90], [0, -1.5, 0, 80], [0, 0, 3, -20], [0, 0, 0, 1]])
    for spacing, given, code in (((3.0, 1.5, 1.25), None, 0), (None, None, 0), ((3.0, 1.5, 1.25), affine, 1)):
        (tmp_path / "a.nii.gz").write_bytes(nifti_bytes(volume, Geometry(spacing, given)))
        image = nib.load(tmp_path / "a.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), volume)
        assert np.allclose(image.header.get_zooms(), (spacing or (1, 1, 1))[::-1])
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (code, code)
        assert image.header.get_xyzt_units()[0] == "mm"
        if given is not None:
            assert np.allclose(image.affine, affine)
    samples = np.stack([volume, volume + 1, volume + 2])
    (tmp_path / "b.nii.gz").write_bytes(nifti_bytes(samples, Geometry()))
    assert np.array_equal(np.asarray(nib.load(tmp_path / "b.nii.gz").dataobj)[..., 2], volume.transpose(2, 1, 0) + 2)


def test_bundles_are_found_by_name_and_missing_ones_named():
    assert find_bundle("brain_mri") == find_bundle(ROOT)
    with pytest.raises(InputError, match=r"'brain_mry'.*'brain_mri'"):
        find_bundle("brain_mry")


def test_python_api_matches_the_sampling_mask_of_zeros(scan):
    path, _ = scan()
    data = load_kspace(path)
    with_mask = medrecon.reconstruct(
        data.kspace, undersampling_mask((40, 36), "gaussian1d", 2, 12, 0), solver="cg-sense"
    )
    without = medrecon.reconstruct(data.kspace[0], solver="cg-sense")
    assert np.array_equal(with_mask.image, without.image)
    with h5py.File(path) as file:
        assert without.image.shape == (1, *file["kspace"].shape[2:])
    with pytest.raises(InputError, match="complex"):
        medrecon.reconstruct(np.zeros((2, 8, 8)))
    with pytest.raises(InputError, match="all zeros"):
        medrecon.reconstruct(np.zeros((2, 8, 8), np.complex64), np.ones(8))


def test_condition_reaches_the_network_and_is_recorded(scan):
    path, _ = scan()
    kspace = load_kspace(path).kspace

    def run(**more):
        return medrecon.reconstruct(kspace, steps=3, settings={"eta": 0.0}, **more)

    plain, told, ignored = run(), run(condition="T2"), run(condition="T2", guidance=0.0)
    assert np.array_equal(plain.image, ignored.image)  # guidance 0 is the unconditional prior
    assert plain.record["condition"] is None and told.record["condition"] == "T2"
    assert told.record["network_evaluations"] == plain.record["network_evaluations"] == 3
    strong = run(condition="T2", guidance=3.0)
    assert strong.record["network_evaluations"] == 6
    assert not np.array_equal(told.image, plain.image) and not np.array_equal(told.image, strong.image)
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


def random_network(channels):
    torch.manual_seed(0)
    network = ResidualUNet(in_channels=channels, channels=(8,), blocks=(1,))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return network.requires_grad_(False)


def test_inferer_by_channel_is_the_one_channel_prior_on_each():
    """The prior of an inferer by channel, with a one-channel network, acts on two channels independently."""
    network = random_network(1)
    x = torch.randn(2, 2, 8, 8)
    both, counters = network_prior(toy_prior(images="magnitude", channels=1), network, (2, 8, 8), None)
    single = EDM().prior(network)(x[:, 1:], 0.3)
    assert torch.allclose(both(x, 0.3)[:, 1:], single, atol=1e-6)
    assert [counter.calls for counter in counters] == [4]


def test_inferer_sees_the_symmetries_of_its_prior():
    network = random_network(2)
    symmetries = {"flip": [-1], "shift": 4, "phase": True}
    x = torch.randn(2, 2, 8, 8)
    plain, _ = network_prior(toy_prior(), network, (2, 8, 8), None)
    turned, _ = network_prior(toy_prior(symmetries=symmetries), network, (2, 8, 8), None)
    assert torch.equal(turned(x, 0.3), equivariant(plain, **symmetries)(x, 0.3))
    assert not torch.allclose(turned(x, 0.3), plain(x, 0.3), atol=1e-3)
