"""The checks of MONAI's model zoo on every bundle, and what each of its configs does when MONAI runs it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out

import medrecon.bundle_checks
from medrecon import workflows
from medrecon.bundle import find_bundle, known_bundles, load_prior, metadata, save_weights
from medrecon.bundle_checks import SCHEMA, check_bundle
from medrecon.cli import main
from medrecon.data.coils import from_kspace
from medrecon.data.errors import InputError, innermost
from medrecon.data.espirit import combined_reference
from medrecon.data.scan import ImageScan
from medrecon.formats import load, load_kspace
from medrecon.metrics import hounsfield_scores, scores
from medrecon.networks import ResidualUNet, check_images
from medrecon.operators.image import downsample_mean
from medrecon.posterior import batch_size
from medrecon.priors import EDMNet, EpsNet, FlowNet
from medrecon.reconstruction import plan
from medrecon.torchscript import Denoiser
from medrecon.training.objectives import objective
from medrecon.transforms import CoarserImaged, FewerLinesd, LoadScand, NoisyImaged, RadialKSpaced, SinogramOfImaged
from medrecon.workflows import cases
from tests.make.images import blobs, write_ct_slices, write_slices

NAMES = tuple(root.name for root in known_bundles())
LEARNED = tuple(name for name in NAMES if name != "classical")
CONFIGS = [(root.name, path.name) for root in known_bundles() for path in sorted((root / "configs").glob("*.yaml"))]


def configs(name, *files):
    return [str(find_bundle(name) / "configs" / file) for file in files]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    monai.data.set_track_meta(True)  # training switches it off for the whole process


def test_these_are_the_bundles():
    known = ("brain_mri", "brain_mri_magnitude", "chest_ct", "classical", "denoise_selfsup")
    assert known == NAMES, "add a new bundle here, and the size of its weights to LIMITS in tests/test_bundle.py"


# The zoo's checks


@pytest.mark.parametrize("name", NAMES)
def test_metadata_follow_the_schema(name, tmp_path):
    """As the zoo's CI does it: a schema that is there already is not downloaded."""
    schema = tmp_path / "schema.json"
    shutil.copy(medrecon.bundle_checks.resources.files("medrecon") / SCHEMA, schema)
    (meta,) = configs(name, "metadata.json")
    verify_metadata(meta_file=meta, filepath=str(schema))
    # And the schema refuses what the specification does.
    facts = json.loads(Path(meta).read_text())
    for broken in ({"version": "one"}, {"task": None}, {"network_data_format": {"inputs": {}}}, {"changelog": {}}):
        (tmp_path / "metadata.json").write_text(json.dumps({**facts, **broken}))
        with pytest.raises(ValueError, match="Failed validating"):
            verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(schema))


@pytest.mark.parametrize("name", NAMES)
def test_the_network_takes_the_sides_that_the_metadata_name(name):
    """As the model zoo checks it, which raises; and no other multiples than those of the prior."""
    format_ = metadata(find_bundle(name))["network_data_format"]
    sides = [format_["inputs"]["image"]["spatial_shape"], format_["outputs"]["pred"]["spatial_shape"]]
    assert sides == [["*" if name == "classical" else f"{load_prior(name).multiple}*n"] * 2] * 2
    meta, config = configs(name, "metadata.json", "inference.yaml")
    verify_net_in_out("network_def", meta_file=meta, config_file=config)


@pytest.mark.parametrize("name", LEARNED)
def test_torchscript_of_ckpt_export_is_the_prior(name, tmp_path):
    """At other sizes and batches than those of the trace, and for every noise level: the same bits."""
    meta, config, *_ = configs(name, "metadata.json", "inference.yaml")
    weights = find_bundle(name) / "models" / "model.pt"
    path = tmp_path / "model.ts"
    ckpt_export("denoiser", filepath=str(path), ckpt_file=str(weights), meta_file=meta, config_file=config)
    spec, extra = load_prior(name), {"metadata.json": ""}
    exported = torch.jit.load(path, _extra_files=extra)
    ours = tmp_path / "ours.ts"
    assert main(["bundle", "export", name, "-o", str(ours)]) == 0
    prior = spec.objective.prior(spec.network(), spec.multiple)
    for batch, shape in ((1, (32, 32)), (3, (37, 50))):
        x, sigma = torch.randn(batch, spec.channels, *shape), torch.rand(batch) + 0.02
        with torch.no_grad():
            assert torch.equal(exported(x, sigma), prior(x, sigma))
            assert torch.equal(torch.jit.load(ours)(x, sigma), prior(x, sigma))
    assert "Device" not in str(exported.inlined_graph)  # it runs where its input is
    assert json.loads(extra["metadata.json"])["name"] == name


@pytest.mark.parametrize(("parameterization", "kind"), [("edm", EDMNet), ("ddpm", EpsNet), ("flow", FlowNet)])
def test_every_objective_is_exported(parameterization, kind):
    network = ResidualUNet(1, (8, 8), (1, 1), embedding=16)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    module = Denoiser(network, objective(parameterization), 1, 4)
    assert isinstance(module.prior, kind)
    x, sigma = torch.randn(3, 1, 9, 14), torch.tensor([0.03, 0.5, 4.0])
    with torch.no_grad():
        assert torch.equal(torch.jit.script(module)(x, sigma), module(x, sigma))
        assert not torch.equal(module(x, sigma), module(x, 2 * sigma))


@pytest.mark.parametrize(
    ("name", "files", "kind"),
    [
        *[(name, ["train.yaml"], "train") for name in LEARNED],
        *[(name, ["inference.yaml"], "infer") for name in NAMES],
        *[(name, ["inference.yaml", "evaluate.yaml"], "infer") for name in NAMES],
        *[(name, ["inference.yaml", more], "infer") for name in ("brain_mri", "classical")
          for more in ("radial.yaml", "evaluate_radial.yaml")],
        ("classical", ["inference.yaml", "evaluate_ct.yaml"], "infer"),
        *[("brain_mri_magnitude", ["inference.yaml", f"{task}.yaml", f"evaluate_{task}.yaml"], "infer")
          for task in ("denoise", "superres")],
    ],
)  # fmt: skip
def test_properties(name, files, kind, scan, tmp_path):
    settings = {"scan": "none.npz" if name == "chest_ct" else str(scan()[0])}
    if kind == "train":
        for archive in ("brain_slices_256", "brain_corsag_256", "brain_slices_256_val"):
            write_slices(tmp_path / f"{archive}.npz")
        write_ct_slices(tmp_path / "ct_slices_256.npz")
        shutil.copytree(find_bundle(name) / "configs", tmp_path / "configs")
        settings = {"dataset_dir": str(tmp_path), "bundle_root": str(tmp_path), "crop": 32, "val_crop": 48}
    workflow = ConfigWorkflow(
        config_file=configs(name, *files), meta_file=configs(name, "metadata.json")[0],
        logging_file=None, workflow_type=kind, **settings,
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_bundle_is_complete(name, capsys):
    assert [one.problem for one in check_bundle(name)] == [""] * 7
    assert main(["bundle", "verify", name]) == 0
    assert main(["bundle", "verify", name, "--json"]) == 0
    assert '"problem": null' in capsys.readouterr().out


BREAKS = {
    "metadata.json": (
        lambda r: edit(r / "configs/metadata.json", '"authors"', '"writers"'),
        "'authors' is a required property",
    ),
    "changelog": (lambda r: forget_version(r / "configs/metadata.json"), "has no entry for the version"),
    "licence": (lambda r: (r / "LICENSE").unlink(), "LICENSE is missing"),
    "card": (lambda r: edit(r / "docs/README.md", "**Tags**", "**Labels**"), "no section 'Tags'"),
    "prior": (lambda r: edit(r / "configs/prior.yaml", "sigma_data: 0.25", "sigma_data: 0"), "sigma_data"),
    "weights": (lambda r: (r / "models/model.pt").write_bytes(b"0"), "model.pt"),
    "sides": (lambda r: edit(r / "configs/metadata.json", '"16*n"', '"8*n"'), "the network takes 16*n"),
    "channels": (
        lambda r: edit(r / "configs/metadata.json", '"num_channels": 2', '"num_channels": 1'),
        "the prior has 2",
    ),
    "inference": (lambda r: edit(r / "configs/inference.yaml", "\nevaluator:", "\nengine:"), "lacks evaluator"),
    "training": (
        lambda r: edit(r / "configs/train.yaml", "max_epochs: '@", "epochs: '@"),
        "train::trainer::max_epochs",
    ),
    "run": (lambda r: edit(r / "configs/inference.yaml", "\nrun:", "\nstart_it:"), "lacks run"),
    "long card": (lambda r: os.truncate(r / "docs/README.md", 2**22), "larger than 1048576 bytes"),
    "format": (lambda r: set_metadata(r, network_data_format=[1, 2]), "lacks inputs.image or outputs.pred"),
    "name": (lambda r: set_metadata(r, name="a\0b"), "does not match"),
    "another name": (
        lambda r: edit(r / "configs/inference.yaml", "current_bundle_or('brain_mri')", "current_bundle_or('chest_ct')"),
        "bundle_root names the bundle 'chest_ct', but metadata.json 'brain_mri'",
    ),
    "no inference": (lambda r: (r / "configs/inference.yaml").unlink(), "inference config: is missing"),
}


def forget_version(path):
    facts = json.loads(path.read_text())
    del facts["changelog"][facts["version"]]
    path.write_text(json.dumps(facts))


def set_metadata(root, **values):
    path = root / "configs" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("part", BREAKS)
def test_what_a_bundle_lacks_is_named(part, tmp_path, capsys):
    shutil.copytree(find_bundle("brain_mri"), tmp_path / "b")
    damage, expected = BREAKS[part]
    damage(tmp_path / "b")
    assert main(["bundle", "verify", str(tmp_path / "b")]) == 1
    assert any("WRONG" in line and expected in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(("name", "file"), CONFIGS)
def test_configs_are_short_and_name_what_is_there(name, file):
    path = find_bundle(name) / "configs" / file
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    limit = 80 if file == "prior.yaml" else 72  # a prior has one line per solver, and per acceleration and quality
    assert len(lines) <= limit
    for target in re.findall(r"_target_: ([\w.]+)", path.read_text()):
        if "." in target:
            module, attribute = target.rsplit(".", 1)
            assert hasattr(__import__(module, fromlist=[attribute]), attribute), target


# Commands


def test_list_and_info(capsys):
    assert main(["bundle", "list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(NAMES)
    assert main(["bundle", "list", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == list(NAMES)
    assert main(["bundle", "info", "brain_mri", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["network"] == "ResidualUNet"
    assert facts["conditions"] == ["T1", "T1Gd", "T2", "FLAIR"]
    assert facts["sha256"] == load_prior("brain_mri").weights_sha256
    assert main(["bundle", "info", "classical"]) == 0
    assert "network: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["info", "brain_mr"], "did you mean 'brain_mri'?"),
        (["verify", "/nowhere"], "no bundle"),
        (["export", "classical", "-o", "m.ts"], "no network"),
        (["export", "brain_mri_magnitude", "-o", "there.ts"], "already exists"),
    ],
)
def test_mistakes_are_one_sentence(argv, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.ts").write_bytes(b"mine")
    assert main(["bundle", *argv]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert (tmp_path / "there.ts").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.ts"]


def test_no_code_of_a_bundle_runs(tmp_path, scan, capsys):
    """Its configs and scripts stay untouched by verify, info, export and recon."""
    root, mark = tmp_path / "b", tmp_path / "mark"
    shutil.copytree(find_bundle("brain_mri_magnitude"), root)
    (root / "scripts").mkdir()
    (root / "scripts" / "__init__.py").write_text(f"open({str(mark)!r}, 'w')")
    for name in ("inference.yaml", "train.yaml"):
        path = root / "configs" / name
        path.write_text(path.read_text() + f"\nevil: $open({str(mark)!r}, 'w')\nbuilt: {{_target_: scripts.x}}\n")
    path, _ = scan()
    assert main(["bundle", "verify", str(root)]) == 0
    assert main(["bundle", "info", str(root)]) == 0
    assert main(["bundle", "export", str(root), "-o", str(tmp_path / "m.ts")]) == 0
    assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--bundle", str(root), "--steps", "2"]) == 0
    assert not mark.exists()


def test_json_may_have_tabs(tmp_path):
    """Which YAML does not allow."""
    shutil.copytree(find_bundle("classical"), tmp_path / "b")
    path = tmp_path / "b" / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent="\t"))
    assert main(["bundle", "verify", str(tmp_path / "b")]) == 0


def test_many_problems_are_counted(tmp_path, capsys):
    shutil.copytree(find_bundle("classical"), tmp_path / "b")
    set_metadata(tmp_path / "b", changelog={f"v{k}": "x" for k in range(2000)})
    assert main(["bundle", "verify", str(tmp_path / "b")]) == 1
    out = capsys.readouterr().out
    assert "more" in out
    assert len(out) < 5000


def test_the_network_of_edm_has_as_many_outputs_as_channels():
    wide = torch.nn.Conv2d(1, 2, 1)

    class Wide(torch.nn.Module):
        def forward(self, x, timesteps):
            return wide(x)

    check_images(Wide(), 1, 8, variances=True)
    with pytest.raises(InputError, match="maps images of 1 channel"):
        check_images(Wide(), 1, 8)


def test_a_mistake_in_prior_yaml_is_named_there(tmp_path, capsys):
    shutil.copytree(find_bundle("classical"), tmp_path / "b")
    edit(tmp_path / "b" / "configs" / "prior.yaml", "attenuation:", "attenuations:")
    assert main(["bundle", "info", str(tmp_path / "b")]) == 2
    assert "prior.yaml: 'tuned_by_images' has settings for unknown images" in capsys.readouterr().err


def test_classical_solvers_denoise_ct_images_by_their_noise():
    """Weights for sinograms would leave them as they are."""
    truth = np.where(np.hypot(*np.mgrid[-32:32, -32:32]) < 20, 0.0, -1000.0)[None]
    noisy = (truth + 50 * np.random.default_rng(0).standard_normal(truth.shape)).astype(np.float32)
    image = ImageScan(path=Path("ct"), format="NIfTI", array=noisy)
    for bundle in ("chest_ct", "classical"):
        for solver in ("tv", "wavelet"):
            made = plan(image, bundle=bundle, solver=solver, noise_std=50.0).run().image
            assert (made - truth).std() < 35  # with those weights 49


def test_a_bundle_that_needs_its_own_code_says_how_to_run_it(tmp_path, capsys):
    shutil.copytree(find_bundle("brain_mri_magnitude"), tmp_path / "b")
    edit(tmp_path / "b" / "configs" / "prior.yaml", "network: ResidualUNet", "network: scripts.MyNet")
    assert main(["bundle", "info", str(tmp_path / "b")]) == 2
    assert "python -m monai.bundle" in capsys.readouterr().err
    # And one of the zoo's, which has no prior.yaml.
    (tmp_path / "z" / "configs").mkdir(parents=True)
    (tmp_path / "z" / "configs" / "metadata.json").write_text('{"name": "z", "version": "1.0"}')
    assert main(["recon", "none.h5", "-o", str(tmp_path / "o"), "--bundle", str(tmp_path / "z")]) == 2
    assert main(["bundle", "info", str(tmp_path / "z")]) == 2
    assert "run its inference config with python -m monai.bundle" in capsys.readouterr().err


# The weightless bundle


def test_classical_needs_no_network_and_has_the_settings_of_the_images(scan, tmp_path, capsys):
    path, _ = scan()
    there, here = load_prior("classical"), load_prior("brain_mri")
    for solver in ("tv", "cg-sense", "wavelet", "low-rank"):
        ours, learned = (plan(load(path), bundle=one, solver=solver).sampling.solver for one in (there, here))
        assert ours == learned
    write_image(tmp_path / "head.nii.gz")
    for one in (load_prior("brain_mri_magnitude"), there):
        chosen = plan(load(tmp_path / "head.nii.gz"), bundle=one, solver="tv", noise_std=1.0)
        assert chosen.sampling.solver.n_iter == 150
    sinogram(tmp_path / "sino.npz")
    for solver in ("fbp", "sirt", "tv", "cg-sense"):
        options = {"solver": solver, "image_size": 32}
        ours, learned = (
            plan(load(tmp_path / "sino.npz"), bundle=one, **options).sampling.solver
            for one in ("classical", "chest_ct")
        )
        assert ours == learned
    assert main(["recon", str(path), "-o", str(tmp_path / "a"), "--bundle", "classical", "--solver", "tv"]) == 0
    assert main(["recon", str(path), "-o", str(tmp_path / "b"), "--solver", "tv"]) == 0
    assert (tmp_path / "a" / "scan.nii.gz").read_bytes() == (tmp_path / "b" / "scan.nii.gz").read_bytes()
    assert main(["recon", str(path), "-o", str(tmp_path / "c"), "--bundle", "classical"]) == 2
    assert "holds no network" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def sinogram(path):
    lines = np.random.default_rng(0).random((1, 12, 48)).astype(np.float32)
    np.savez(path, sino=lines, theta_rad=np.arange(12) * np.pi / 12, detector_spacing_mm=1.0)


def write_image(path, scale=100.0, offset=0.0, side=48):
    """Two slices of blobs with a known place; HU if ``offset`` is that of air."""
    images = np.stack([np.abs(blobs((side, side), seed)) for seed in range(2)]).astype(np.float32) * scale + offset
    nib.save(nib.Nifti1Image(images.transpose(2, 1, 0), np.diag([-1.5, -1.5, 3.0, 1.0])), path)
    return images


# What MONAI runs


def run(name, files, cwd, monkeypatch, **settings):
    """In this process, from a foreign folder; what it wrote, and the scores that it printed into a file."""
    monkeypatch.chdir(cwd)
    workflow = ConfigWorkflow(
        config_file=configs(name, *files), meta_file=configs(name, "metadata.json")[0], logging_file=False,
        workflow_type="infer", output_dir=str(cwd / "out"), **settings,
    )  # fmt: skip
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    table = cwd / "out" / "metrics.csv"
    printed = {key: float(value) for key, value in csv.reader(table.open())} if table.is_file() else {}
    images = [path for path in (cwd / "out").iterdir() if path.name.endswith(".nii.gz")]
    image = nib.load(images[0])
    return np.asarray(image.dataobj).transpose(2, 1, 0), image.affine, printed


def same(printed, expected):
    assert set(printed) == {"psnr", "ssim", "nmse"}
    for key in printed:
        assert printed[key] == pytest.approx(expected[key], rel=1e-3)


@pytest.mark.parametrize("name", ["brain_mri", "brain_mri_magnitude", "classical"])
def test_kspace_is_undersampled_and_scored(name, scan, tmp_path, monkeypatch):
    path, _ = scan(full=True, shape=(64, 60), name="full.h5")
    more = {} if name == "classical" else {"n_steps": 3}
    image, _, printed = run(
        name, ["inference.yaml", "evaluate.yaml"], tmp_path, monkeypatch, scan=str(path), acceleration=2, acs=16, **more
    )
    expected = scores(image, combined_reference(load_kspace(path).kspace))
    same(printed, expected)
    assert expected["psnr"] > (40 if name == "classical" else 27)  # zero-filled has 26 dB


@pytest.mark.parametrize("name", ["brain_mri", "classical"])
def test_spokes_are_taken_and_scored(name, scan, tmp_path, monkeypatch):
    path, _ = scan(full=True, shape=(64, 60), name="full.h5")
    more = {} if name == "classical" else {"n_steps": 10}
    files = ["inference.yaml", "evaluate_radial.yaml"]
    image, _, printed = run(name, files, tmp_path, monkeypatch, scan=str(path), spokes=60, **more)
    expected = scores(image, combined_reference(load_kspace(path).kspace))
    same(printed, expected)
    assert expected["psnr"] > (40 if name == "classical" else 33)  # zero-filled has 31 dB


def test_padding_of_ct_is_air(tmp_path, monkeypatch):
    images = write_image(tmp_path / "ct.nii.gz", 900.0, -1000.0)
    padded = np.where(np.abs(np.mgrid[-24:24, -24:24]).max(0) > 21, -3024, images).astype(np.float32)
    nib.save(nib.Nifti1Image(padded.transpose(2, 1, 0), np.diag([-1.5, -1.5, 3.0, 1.0])), tmp_path / "ct.nii.gz")
    settings = {"scan": str(tmp_path / "ct.nii.gz"), "views": 120, "photons": 0, "solver": "fbp"}
    *_, printed = run("classical", ["inference.yaml", "evaluate_ct.yaml"], tmp_path, monkeypatch, **settings)
    assert printed["psnr"] > 28
    for more, expected in (({}, "already exists"), ({"overwrite": True, "physics": {"image_size": 9}}, "leave it out of physics"),
                           ({"overwrite": True, "physics": {"slices": "$slice(0, 1)"}}, "leave slices out")):  # fmt: skip
        with pytest.raises(Exception) as caught:
            run("classical", ["inference.yaml", "evaluate_ct.yaml"], tmp_path, monkeypatch, **settings, **more)
        assert expected in str(innermost(caught.value))


@pytest.mark.parametrize(("name", "file"), [("chest_ct", "evaluate.yaml"), ("classical", "evaluate_ct.yaml")])
def test_sinograms_of_ct_are_reconstructed_where_the_image_was(name, file, tmp_path, monkeypatch):
    images = write_image(tmp_path / "ct.nii.gz", 900.0, -1000.0)
    image, affine, printed = run(
        name, ["inference.yaml", file], tmp_path, monkeypatch,
        scan=str(tmp_path / "ct.nii.gz"), views=120, photons=0, solver="fbp",
    )  # fmt: skip
    expected = hounsfield_scores(image, images)
    same(printed, expected)
    assert expected["psnr"] > 28  # half a pixel off costs 8 dB
    assert np.allclose(affine, np.diag([-1.5, -1.5, 3.0, 1.0]), atol=1e-5)
    assert (tmp_path / "out" / "ct.nii.gz").is_file()


def test_noise_is_added_and_removed(tmp_path, monkeypatch):
    images = write_image(tmp_path / "head.nii.gz")
    files = ["inference.yaml", "denoise.yaml", "evaluate_denoise.yaml"]
    image, affine, printed = run(
        "brain_mri_magnitude", files, tmp_path, monkeypatch,
        scan=str(tmp_path / "head.nii.gz"), n_steps=10, noise_model="rician", solver="diffpir",
    )  # fmt: skip
    expected = scores(image, images)
    same(printed, expected)
    assert expected["psnr"] > 22  # the noisy image has 18 dB
    assert np.allclose(affine, np.diag([-1.5, -1.5, 3.0, 1.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "least", "factor"), [("kspace", 24, 2), ("mean", 24, 2), ("gaussian", 28, 2), ("mean", 26, [2, 1])]
)
def test_coarse_images_are_sharpened_where_they_were(kernel, least, factor, tmp_path, monkeypatch):
    """On 49 pixels, of which the last is left out."""
    images = write_image(tmp_path / "head.nii.gz", side=49)
    image, affine, printed = run(
        "brain_mri_magnitude", ["inference.yaml", "superres.yaml", "evaluate_superres.yaml"], tmp_path, monkeypatch,
        scan=str(tmp_path / "head.nii.gz"), solver="tv", kernel=kernel, factor=factor,
    )  # fmt: skip
    assert image.shape == (2, 48, 48 if factor == 2 else 49)
    expected = scores(image, images[:, :48, : image.shape[2]])
    same(printed, expected)
    assert expected["psnr"] > least  # interpolated ones have 23.4 and 22.2 dB
    assert np.allclose(affine, np.diag([-1.5, -1.5, 3.0, 1.0]), atol=1e-5)


# The measurements


def one(transform, scan):
    return transform({"scan": scan})


def test_the_measurements_are_those_of_the_physics(scan, tmp_path):
    images = write_image(tmp_path / "head.nii.gz")
    head = load(tmp_path / "head.nii.gz")
    unit = np.quantile(images, 0.995)
    rician = one(NoisyImaged("scan", noise=0.1), head)["scan"].array
    # E[m^2] = a^2 + 2 s^2 and Var[m^2] = 4 s^2 (a^2 + s^2); within four standard errors.
    s = 0.1 * unit
    error = (4 * s**2 * (images.astype(float) ** 2 + s**2)).sum() ** 0.5 / images.size
    assert (rician.astype(float) ** 2 - images**2).mean() == pytest.approx(2 * s**2, abs=4 * error)
    whole = replace(head, array=images + 0j)
    difference = one(NoisyImaged("scan", noise=0.1), whole)["scan"].array - images
    for part in (difference.real, difference.imag):
        assert abs(part.mean()) < 4 * s / part.size**0.5
        assert part.std() == pytest.approx(s, rel=4 / (2 * part.size) ** 0.5)
    coarse = one(CoarserImaged("scan", factor=3, kernel="mean", noise=0), head)
    expected = downsample_mean((48, 48), 3)(torch.from_numpy(images)[:, None])[:, 0]
    assert torch.allclose(torch.from_numpy(coarse["scan"].array), expected, rtol=1e-6)
    path, _ = scan(full=True)
    full = load(path)
    radial = one(RadialKSpaced("scan", spokes=7), full)["scan"]
    images = from_kspace(np.asarray(full.kspace[0]))
    ny, nx = images.shape[-2:]
    y, x = np.ogrid[-(ny // 2) : ny - ny // 2, -(nx // 2) : nx - nx // 2]
    for shot, sample in ((0, 11), (5, 60)):
        ky, kx = radial.trajectory[0, shot, sample].astype(float)
        wave = np.exp(-2j * np.pi * (ky * y / ny + kx * x / nx)) / (ny * nx) ** 0.5
        expected = (images * wave).sum((-2, -1))
        assert np.allclose(radial.samples[0, :, shot, sample], expected, atol=2e-3 * np.abs(radial.samples).max())


def test_noise_depends_on_seed_and_name_alone(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.nii.gz")
    arrays = [
        LoadScand("scan")({"scan": str(tmp_path / f"{name}.nii.gz")}) | {"seed": seed}
        for name, seed in (("a", 0), ("a", 0), ("b", 0), ("a", 1))
    ]
    found = [NoisyImaged("scan", seed=item["seed"])(item)["scan"].array for item in arrays]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[3])


def test_kspace_that_cannot_be_written_is_undersampled_without_a_warning(scan):
    whole = load(scan(full=True)[0])
    kspace = whole.kspace.copy()
    kspace.flags.writeable = False  # as k-space that is mapped from a large file
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = FewerLinesd("scan", accel=2, acs=12).measure(replace(whole, kspace=kspace))[0].kspace
    finally:
        torch.set_warn_always(False)
    assert np.array_equal(found, one(FewerLinesd("scan", accel=2, acs=12), whole)["scan"].kspace)


@pytest.mark.parametrize(
    ("transform", "file", "expected"),
    [
        (NoisyImaged("scan"), "scan.h5", "is not an image"),
        (SinogramOfImaged("scan"), "head.nii.gz", "not a CT image in HU"),
        (RadialKSpaced("scan"), "head.nii.gz", "is not fully sampled Cartesian k-space"),
        (RadialKSpaced("scan"), "scan.h5", "is undersampled already"),
        (NoisyImaged("scan"), "ct.nii.gz", "has negative values"),
        (CoarserImaged("scan", factor=64), "head.nii.gz", "too few for a factor of 64 x 64"),
        (FewerLinesd("scan"), "head.nii.gz", "is not fully sampled Cartesian k-space"),
        (FewerLinesd("scan", acs=30), "full.h5", "ACS"),
        (NoisyImaged("scan"), "zeros.nii.gz", "is all zeros"),
        (NoisyImaged("scan"), "flat.nii.gz", "too small to score"),
    ],
)
def test_what_cannot_be_measured_is_named(transform, file, expected, scan, tmp_path):
    scan()
    scan(full=True, name="full.h5")
    write_image(tmp_path / "head.nii.gz")
    write_image(tmp_path / "ct.nii.gz", 900.0, -1000.0)
    write_image(tmp_path / "zeros.nii.gz", 0.0)
    nib.save(nib.Nifti1Image(np.ones((20, 4, 9), np.float32), np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(InputError, match=re.escape(expected)):
        one(transform, load(tmp_path / file))


# Folders and processes


def own_copy(root, name="brain_mri_magnitude"):
    """A copy of a bundle with other weights, and their SHA-256."""
    shutil.copytree(find_bundle(name), root)
    network = load_prior(root).network()
    with torch.no_grad():
        network.tail.bias += 0.01
    save_weights(network, root)
    digest = metadata(root)["weights"]["sha256"]
    assert digest != load_prior(name).weights_sha256
    return digest


def test_a_copy_uses_its_own_weights_wherever_it_is_run_from(scan, tmp_path):
    """From the command line; not the shipped ones, which have the same name."""
    path, _ = scan()
    root = tmp_path / "copies" / "brain_mri_magnitude"
    own = own_copy(root)
    files = str([str(root / "configs" / "inference.yaml")])
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        files,
        "--scan",
        str(path),
        "--output_dir",
        "o",
    ]
    out = subprocess.run([*command, "--n_steps", "2"], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["bundle"]["weights_sha256"] == own


def test_the_bundle_is_that_of_the_config_however_monai_reads_it(scan, tmp_path, monkeypatch):
    own = own_copy(tmp_path / "mine")
    shutil.copytree(tmp_path / "mine", tmp_path / "linked")
    for name in ("inference.yaml", "train.yaml"):
        (tmp_path / "linked" / "configs" / name).unlink()
        (tmp_path / "linked" / "configs" / name).symlink_to(find_bundle("brain_mri_magnitude") / "configs" / name)
    shipped = load_prior("brain_mri_magnitude").weights_sha256
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # What other programs have on their command line does not matter.
    monkeypatch.setattr(sys, "argv", ["job.py", "--config_file", str(tmp_path / "mine" / "configs" / "site.yaml")])
    for folder, expected in (
        (tmp_path / "mine", own),
        (Path("..") / "mine", own),
        (tmp_path / "linked", own),
        (find_bundle("brain_mri_magnitude"), shipped),
    ):
        config = str(folder / "configs" / "inference.yaml")
        workflow = ConfigWorkflow(config_file=config, logging_file=False, workflow_type="infer", scan="x.h5")
        workflow.initialize()
        assert workflow.parser.get_parsed_content("dataset_dir") == "."
        assert workflow.inferer.prior.weights_sha256 == expected
        written = tmp_path / "m.ts"
        written.unlink(missing_ok=True)
        root = Path(os.path.abspath(folder))
        ckpt_export("denoiser", filepath=str(written), ckpt_file=str(root / "models" / "model.pt"), config_file=config,
                    meta_file=str(root / "configs" / "metadata.json"))  # fmt: skip
        x = torch.randn(1, 1, 32, 32)
        spec = load_prior(root)
        with torch.no_grad():
            expected_image = spec.objective.prior(spec.network(), spec.multiple)(x, torch.tensor([0.3]))
            assert torch.equal(torch.jit.load(written)(x, torch.tensor([0.3])), expected_image)


def test_training_is_for_the_bundle_of_its_config_and_never_a_shipped_one(tmp_path, monkeypatch):
    for name in ("brain_slices_256", "brain_corsag_256", "brain_slices_256_val"):
        write_slices(tmp_path / f"{name}.npz")
    for name in ("mine", "here"):
        shutil.copytree(find_bundle("brain_mri"), tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    settings = {
        "dataset_dir": str(tmp_path),
        "crop": 32,
        "val_crop": 48,
        "workflow_type": "train",
        "logging_file": False,
    }
    workflow = ConfigWorkflow(config_file=str(tmp_path / "mine" / "configs" / "train.yaml"), **settings)
    assert workflow.parser.get_parsed_content("checkpoint_dir", instantiate=True) is not None
    workflow.initialize()
    assert workflow.bundle_root == str(tmp_path / "mine")
    workflow = ConfigWorkflow(config_file=configs("brain_mri", "train.yaml")[0], **settings)
    with pytest.raises(Exception) as caught:
        workflow.initialize()
    assert "comes with medrecon; copy it" in str(innermost(caught.value))


def test_cases_are_all_there_once(monkeypatch):
    files = ["a", "b", "c"]
    assert cases("a") == [{"scan": "a"}]
    assert cases(files) == [{"scan": file} for file in files]
    parts = []
    for rank in range(2):
        monkeypatch.setattr(workflows, "_rank_and_size", lambda rank=rank: (rank, 2))
        parts.append([one["scan"] for one in cases(files)])
        with pytest.raises(InputError, match="too few for 2 processes"):
            cases("a")
    assert sorted([*parts[0], *parts[1]]) == files
    assert not set(parts[0]) & set(parts[1])
    for nothing in ("", [], ["a", ""]):
        with pytest.raises(InputError, match="no scan is given"):
            cases(nothing)
    with pytest.raises(InputError, match="2 scans are called a"):
        cases(["x/a.nii.gz", "b", "y/a.nii"])


def test_small_images_share_a_batch(scan, monkeypatch):
    sizes = {(2, 64, 64): 16, (2, 256, 256): 1, (2, 512, 512): 1, (1, 64, 64): 16, (1, 16, 16): 64, (10, 64, 64): 3}
    assert {shape: batch_size(shape, "cpu") for shape in sizes} == sizes
    assert batch_size((2, 256, 256), "cuda") == 8
    # And a run uses it: three slices at once.
    path, _ = scan(slices=3)
    shapes = []
    network = load_prior("brain_mri").network()
    network.register_forward_pre_hook(lambda module, inputs: shapes.append(len(inputs[0])))
    one = replace(load_prior("brain_mri"), network=lambda: network)
    together = plan(load(path), bundle=one, steps=2).run()
    assert set(shapes) == {3}
    alone = plan(load(path), bundle=one, steps=2, chunk=1).run()
    # Rounding of bfloat16, where the processor has it.
    assert np.allclose(together.image, alone.image, atol=5e-3 * alone.image.max())


def test_a_trajectory_in_a_file_of_its_own(scan, tmp_path, monkeypatch):
    path, _ = scan(full=True)
    radial = RadialKSpaced("scan", spokes=60)({"scan": load(path)})["scan"]
    np.save(tmp_path / "samples.npy", radial.samples)
    np.save(tmp_path / "points.npy", radial.trajectory[0])
    files = ["inference.yaml", "radial.yaml"]
    image, *_ = run(
        "classical", files, tmp_path, monkeypatch,
        scan=str(tmp_path / "samples.npy"), trajectory=str(tmp_path / "points.npy"), matrix=[40, 36],
    )  # fmt: skip
    assert scores(image, combined_reference(load_kspace(path).kspace))["psnr"] > 35


@pytest.mark.slow
@pytest.mark.parametrize(("name", "more"), [("brain_mri", ["--n_steps", "3"]), ("classical", [])])
def test_two_processes_write_the_bytes_of_one(name, more, scan, tmp_path):
    paths = [str(scan(name=f"{k}.h5", coils=2 + k)[0]) for k in range(3)]
    names = ["inference.yaml", "multi_gpu_inference.yaml"]
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for folder, files, how in (("one", names[:1], []), ("two", names, start)):
        command = [
            sys.executable, *how, "-m", "monai.bundle", "run", "--config_file", str(configs(name, *files)),
            "--scan", str(paths), "--output_dir", folder, *more,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert out.returncode == 0, out.stderr[-2000:]
    for k in range(3):
        assert (tmp_path / "one" / f"{k}.nii.gz").read_bytes() == (tmp_path / "two" / f"{k}.nii.gz").read_bytes()
    # Fewer scans than processes are refused by all of them, so none waits.
    command[command.index(str(paths))] = paths[0]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=120)
    assert out.returncode != 0
    assert "are too few for 2 processes" in out.stderr + out.stdout
