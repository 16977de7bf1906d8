"""The bundle: run by MONAI as by us, weights checked, metadata complete; and the transforms inside."""

import hashlib
import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

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
from medrecon.formats import load_kspace
from medrecon.networks import ResidualUNet
from medrecon.posterior import sampling
from medrecon.settings import SamplingSettings
from medrecon.training.objectives import objective
from medrecon.weights import difference

LIMITS = {
    "brain_mri": 14e6,
    "brain_mri_magnitude": 8e6,
    "chest_ct": 10e6,
    "denoise_selfsup": 4e6,
}  # bytes of the weights
NAMES = tuple(LIMITS)
ROOT = find_bundle("brain_mri")
CONFIG = ROOT / "configs" / "inference.yaml"


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
    same = set(ours.record) - {
        "seconds",
        "input",
        "options",
    }  # one has an array as mask, the other the name of the bundle
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
    """The network in ``metadata.json``, which other tools read, is that of ``prior.yaml``."""
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


# Transforms and inferer


@pytest.mark.parametrize("name", NAMES)
def test_a_bundle_knows_what_suits_it(name):
    """Every solver that it names takes the settings that it gives."""
    prior = load_prior(name)
    for solver in prior.tuned:
        sampling(SamplingSettings(solver=solver), prior)
    if prior.noise is not None:  # a denoiser, whose only solver has no settings
        assert not prior.tuned and not prior.posterior
        return
    assert "dds" in prior.tuned
    for solver in prior.posterior:
        made = sampling(SamplingSettings(solver=solver, posterior=True, samples=2), prior)
        assert made.block == "posterior" and made.steps == prior.posterior[solver].get("steps", prior.n_steps)
    assert set(prior.posterior) == {"pnpdm", "daps", "diffpir", "dds", "tmpd", "ald"}


# Metrics and writers


def test_bundles_are_found_by_name_and_missing_ones_named():
    assert find_bundle("brain_mri") == find_bundle(ROOT)
    with pytest.raises(InputError, match=r"'brain_mry'.*'brain_mri'"):
        find_bundle("brain_mry")
