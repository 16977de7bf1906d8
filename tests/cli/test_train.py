"""medrecon train: from a prepared folder to a bundle."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

from medrecon.bundle import find_bundle, load_prior, read_prior
from medrecon.cli import main
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.scan import Geometry
from medrecon.prep import DatasetOptions, load_recipe, prepare
from medrecon.training.denoising import Noise2Self
from medrecon.writers.nifti import nifti_bytes
from tests.make.images import blobs

SHORT = ("crop=32", "val_crop=32", "batch_size=2", "iterations_per_epoch=3", "val_interval=1", "overview_fraction=0")
SHAPE = (37, 30)


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)


def small(name, root):
    """A copy of a bundle with a tiny network."""
    shutil.copytree(find_bundle(name), root, ignore=shutil.ignore_patterns("checkpoints", "models"))
    path = root / "configs" / "prior.yaml"
    text = path.read_text()
    for key, value in {"channels": "[8, 8, 8]", "blocks": "[1, 1, 1]", "heads": "2"}.items():
        text = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
    path.write_text(text)
    return str(root)


def volumes(folder):
    (folder / "v").mkdir()
    for k in range(4):
        array = 100 * np.stack([np.abs(blobs(SHAPE, 10 * k + j)) for j in range(3)]).astype(np.float32)
        (folder / "v" / f"s{k}.nii.gz").write_bytes(nifti_bytes(array, Geometry((1.0, 1.0, 1.0), np.eye(4))))
    prepare(folder / "v", folder / "p", load_recipe("nifti"), dataset=DatasetOptions(split=(0.5, 0.5)))
    return str(folder / "p")


def scans(folder, coils):
    (folder / "k").mkdir()
    for k in range(4):
        rng = np.random.default_rng(k)
        kept = (np.abs(np.arange(SHAPE[1]) - SHAPE[1] // 2) <= 6) | (np.arange(SHAPE[1]) % 2 == k % 2)
        kspace = simulate_kspace(blobs(SHAPE, k), loop_coils(SHAPE, coils), 0.001, rng) * kept
        np.savez(folder / "k" / f"k{k}.npz", kspace=kspace[None].astype(np.complex64))
    prepare(folder / "k", folder / "p", load_recipe("kspace"), dataset=DatasetOptions(split=(0.5, 0.5)))
    return str(folder / "p")


def train(*argv, epochs=1, settings=SHORT):
    return main(
        ["train", *map(str, argv), *(word for one in (*settings, f"max_epochs={epochs}") for word in ("--set", one))]
    )


def reached(root):
    return torch.load(root / "checkpoints" / "latest.pt", weights_only=True)["trainer"]["iteration"]


def test_a_folder_of_volumes_becomes_a_bundle_that_reconstructs_and_goes_on(tmp_path, capsys):
    data, source, root = volumes(tmp_path), small("brain_mri_magnitude", tmp_path / "small"), tmp_path / "mine"
    assert train(source, "-o", root, "--data", data) == 0
    assert reached(root) == 3
    first = load_prior(root).weights_sha256
    assert "trained for 3 steps (objective: clean, psnr:" in capsys.readouterr().out
    image = str(tmp_path / "v" / "s0.nii.gz")
    recon = ["recon", image, "--bundle", str(root), "--task", "denoise", "--noise-std", "5", "--steps", "2"]
    assert main([*recon, "-o", str(tmp_path / "o")]) == 0
    assert json.loads((tmp_path / "o" / "s0.json").read_text())["bundle"]["weights_sha256"] == first
    # A second call continues.
    capsys.readouterr()
    assert train(source, "-o", root, "--data", data, "--json", epochs=2) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 6 and reached(root) == 6 and facts["objective"] == "clean"


@pytest.mark.parametrize(("coils", "objective"), [(4, "ambient"), (1, "gsure")])
def test_undersampled_scans_train_a_prior_of_odd_sizes(tmp_path, capsys, coils, objective):
    data, source, root = scans(tmp_path, coils), small("brain_mri", tmp_path / "small"), tmp_path / "mine"
    assert train(source, "-o", root, "--data", data) == 0
    said = capsys.readouterr()
    assert (
        f"4 undersampled scans; the network is trained on the measured samples alone (objective: {objective})"
        in said.err
    )
    assert "negative_loss" in said.out
    assert (
        main(
            ["recon", str(tmp_path / "k" / "k0.npz"), "-o", str(tmp_path / "o"), "--bundle", str(root), "--steps", "2"]
        )
        == 0
    )
    prior = load_prior(root)
    channels = prior.network().head.weight.shape[1] // 4  # pixels are unshuffled by 2
    assert prior.channels == 2 and channels == (3 if objective == "ambient" else 2)
    masks = read_prior(root).masks
    assert (masks.get("acs") in (13, 15) and 1 < masks["accel"] < 2) if objective == "ambient" else not masks
    assert masks.get("several_coils", coils > 1) is (coils > 1) and not masks.get("rows", False)
    assert train(source, "-o", root, "--data", data, epochs=2) == 0
    assert reached(root) == 6
    # Clean images do not continue it.
    (tmp_path / "p").rename(tmp_path / "q")
    volumes(tmp_path)
    capsys.readouterr()
    assert train(source, "-o", root, "--data", tmp_path / "p", epochs=3) == 2
    said = {"ambient": "takes sampling masks", "gsure": "it was trained for GSURE, and this run is for EDM"}
    assert said[objective] in capsys.readouterr().err
    assert main(["bundle", "export", str(root), "-o", str(tmp_path / "m.ts")]) == (2 if objective == "ambient" else 0)


def test_noisy_images_train_a_denoiser_that_knows_their_levels(tmp_path, capsys):
    """Levels in prior.yaml are those of the data (3 % of the unit), whatever the bundle's; other noise is refused in use."""
    (tmp_path / "v").mkdir()
    for k in range(4):
        rng = np.random.default_rng(k)
        clean = 100 * np.stack([np.abs(blobs((64, 64), 10 * k + j)) for j in range(3)])
        array = np.abs(clean + 0.03 * np.quantile(clean, 0.995) * rng.standard_normal(clean.shape)).astype(np.float32)
        (tmp_path / "v" / f"s{k}.nii.gz").write_bytes(nifti_bytes(array, Geometry((1.0, 1.0, 1.0), np.eye(4))))
    data = prepare(tmp_path / "v", tmp_path / "p", load_recipe("nifti"), dataset=DatasetOptions(split=(0.5, 0.5)))
    assert data.prepared == 4
    source, root = small("denoise_selfsup", tmp_path / "small"), tmp_path / "mine"
    short = ("crop=32", "batch_size=2", "iterations_per_epoch=3", "val_interval=1", "scale=[1.0,1.0]")
    assert train(source, "-o", root, "--data", tmp_path / "p", settings=short) == 0
    assert "trained for 3 steps (objective: noise2score, negative_loss:" in capsys.readouterr().out
    noise = load_prior(root).noise
    assert noise.family == "gaussian"
    assert 0.6 * 0.03 < noise.least < 0.03 < noise.most < 1.5 * 0.03
    recon = ["recon", str(tmp_path / "v" / "s0.nii.gz"), "--bundle", str(root), "--task", "denoise"]
    assert main([*recon, "-o", str(tmp_path / "o")]) == 0
    capsys.readouterr()
    assert train(source, "-o", root, "--data", tmp_path / "p", "--objective", "sure", settings=short, epochs=2) == 2
    assert "it was trained for Noise2Score, and this run is for SURELoss" in capsys.readouterr().err
    other = (*short, "family=poisson")
    assert train(source, "-o", tmp_path / "poisson", "--data", tmp_path / "p", settings=other) == 0
    capsys.readouterr()
    assert main([*recon[:3], str(tmp_path / "poisson"), *recon[4:], "-o", str(tmp_path / "q")]) == 2
    assert "was trained for poisson noise, but reconstructions assume Gaussian noise" in capsys.readouterr().err
    # Noise2Self's network is evaluated on masked images, 16 times.
    assert (
        train(source, "-o", tmp_path / "self", "--data", tmp_path / "p", "--objective", "noise2self", settings=short)
        == 0
    )
    assert load_prior(tmp_path / "self").noise.stride == 4
    assert main([*recon[:3], str(tmp_path / "self"), *recon[4:], "-o", str(tmp_path / "s")]) == 0
    network = load_prior(tmp_path / "self").network()
    prior = Noise2Self().prior(network, load_prior(tmp_path / "self").multiple)
    x = torch.rand(1, 1, 16, 16)
    found = load_prior(tmp_path / "self").objective.prior(network, load_prior(tmp_path / "self").multiple)
    assert torch.equal(found(x, 0.1), prior(x, 0.1))
    capsys.readouterr()
    assert main(["bundle", "export", str(tmp_path / "self"), "-o", str(tmp_path / "m.ts")]) == 2
    assert "is evaluated on masked images and cannot be exported" in capsys.readouterr().err
    # What is an item of train.yaml is not set twice.
    capsys.readouterr()
    for setting in ("sigma_data", "family"):
        twice = (*short, f'objective_settings={{"{setting}": 0.6}}')
        assert train(source, "-o", tmp_path / "twice", "--data", tmp_path / "p", settings=twice) == 2
        assert f"'{setting}' is an item of train.yaml; change it there" in capsys.readouterr().err
    # Objectives of other data than noisy images.
    for name, message in (
        ("clean", "describes a network that only denoises"),
        ("supervised", r"lacks clean, which the objective needs"),
    ):
        assert train(source, "-o", tmp_path / name, "--data", tmp_path / "p", "--objective", name, settings=short) == 2
        assert message in capsys.readouterr().err and not (tmp_path / name).exists()


def test_fine_tuning_starts_from_the_weights_of_the_bundle(tmp_path):
    data, source = volumes(tmp_path), small("brain_mri_magnitude", tmp_path / "small")
    assert train(source, "-o", tmp_path / "first", "--data", data) == 0
    still = ("learning_rate=0.0", *SHORT)
    assert train(tmp_path / "first", "-o", tmp_path / "second", "--data", data, "--fine-tune", settings=still) == 0
    first, second = (load_prior(tmp_path / name).network().state_dict() for name in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_cannot_be_trained_leaves_nothing(tmp_path, capsys):
    data, source = volumes(tmp_path), small("brain_mri_magnitude", tmp_path / "small")
    other, root = small("chest_ct", tmp_path / "ct"), tmp_path / "mine"
    mistakes = [
        ((source, "-o", root, "--data", tmp_path / "none"), "no manifest; give a folder that 'medrecon prep' wrote"),
        (("brain_mr", "-o", root, "--data", data), "did you mean 'brain_mri'?"),
        (("classical", "-o", root, "--data", data), "has no configs/train.yaml"),
        (
            (source, "-o", find_bundle("brain_mri_magnitude"), "--data", data),
            "comes with medrecon; write to another folder",
        ),
        ((source, "-o", tmp_path / "v", "--data", data), "exists, but holds no bundle to continue"),
        ((source, "-o", other, "--data", data), "is a copy of chest_ct, not of"),
        ((source, "-o", root, "--data", data, "--set", "epochs=3"), "has no item 'epochs' to set"),
        ((source, "-o", root, "--data", data, "--set", "data=x"), "--set data: is an option of the command"),
        ((source, "-o", root, "--data", data, "--set", "x"), "expected NAME=VALUE"),
        (
            (source, "-o", root, "--data", data, "--objective", "gsure"),
            "the objective 'gsure' needs undersampled k-space",
        ),
        ((source, "-o", root, "--data", data, "--objective", "$open('x', 'w')"), "no objective"),
        ((other, "-o", root, "--data", data), "prior.yaml describes a prior of CT in HU"),
    ]
    for argv, message in mistakes:
        assert train(*argv) == 2, message
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error
        assert not root.exists() and not (tmp_path / "x").exists()


@pytest.mark.parametrize("item", ["max_epochs", "iterations_per_epoch", "batch_size"])
def test_runs_without_a_step_are_refused(tmp_path, capsys, item):
    """They would store random weights."""
    data, source, root = volumes(tmp_path), small("brain_mri_magnitude", tmp_path / "small"), tmp_path / "mine"
    short = {**dict(one.split("=") for one in SHORT), "max_epochs": "1", item: "0"}
    words = [word for name, value in short.items() for word in ("--set", f"{name}={value}")]
    assert main(["train", source, "-o", str(root), "--data", data, *words]) == 2
    assert f"{item} must be a whole number of at least 1; got 0" in capsys.readouterr().err
    assert not root.exists()


def test_weights_that_are_not_finite_are_not_stored(tmp_path, capsys):
    data, source, root = volumes(tmp_path), small("brain_mri_magnitude", tmp_path / "small"), tmp_path / "mine"
    assert train(source, "-o", root, "--data", data, settings=("learning_rate=1e30", *SHORT)) == 2
    assert "the weights are not finite, so nothing was stored" in capsys.readouterr().err
    assert not (root / "models").exists()
