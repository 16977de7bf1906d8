"""Every command, as a user calls it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
import torch

from medrecon import __version__
from medrecon.bundle import load_prior
from medrecon.cli import main
from medrecon.data.masks import undersampling_mask
from medrecon.data.phantom import loop_coils
from medrecon.formats import load_kspace
from medrecon.solvers import SOLVERS

PROGRAM = shutil.which("medrecon", path=str(Path(sys.executable).parent))


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """What ``--threads`` sets holds for the whole process; other tests compare bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def call(*arguments, capsys=None):
    """Exit code, and what was printed."""
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr() if capsys else None


def refused(capsys, *arguments, words=()):
    code, printed = call(*arguments, capsys=capsys)
    assert code == 2, printed
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("medrecon: error: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.skipif(PROGRAM is None, reason="medrecon is not installed beside this Python")
def test_installed_program():
    out = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == f"medrecon {__version__}"
    assert subprocess.run([PROGRAM], capture_output=True).returncode == 2
    out = subprocess.run([PROGRAM, "solvers"], capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in out.stdout.splitlines()] == list(SOLVERS)
    assert all(len(line.split()) > 2 for line in out.stdout.splitlines())


def test_solvers_settings(capsys):
    _, printed = call("solvers", "--settings", capsys=capsys)
    assert "solver.gamma=None" in printed.out
    assert "first noise level" not in printed.out
    _, printed = call("solvers", "--settings", "--bundle", "chest_ct", capsys=capsys)
    suited = printed.out[printed.out.index("\ndds ") :].split("\ndiffpir")[0]
    tuned = dict(load_prior("chest_ct").tuned["dds"])
    assert f"first noise level {tuned.pop('sigma_max')}" in suited
    assert all(f"solver.{key}={value}\n" in suited for key, value in tuned.items())


def test_solvers_settings_show_those_for_posterior_samples(capsys):
    block = load_prior("brain_mri").posterior
    _, printed = call("solvers", "--settings", "--bundle", "brain_mri", capsys=capsys)
    lines = [line for line in printed.out.splitlines() if "with --posterior:" in line]
    assert len(lines) == len(block) >= 6
    about_dds = printed.out[printed.out.index("\ndds ") :].split("\ndiffpir")[0]
    assert "solver.kernel=ddim" in about_dds and f"network evaluations {block['dds']['steps']}" in about_dds
    _, printed = call("solvers", "--settings", "--bundle", "brain_mri", "--json", capsys=capsys)
    assert {row["name"]: row["posterior"] for row in json.loads(printed.out) if row["posterior"]} == block


def test_recon_with_posterior_settings(scan, tmp_path, capsys):
    path, _ = scan()
    block = dict(load_prior("brain_mri").posterior["dds"])
    runs = {
        "tuned": (),
        "posterior": ("--posterior", "--samples", 2, "--set", "solver.n_cg=3"),
        "none": ("--solver", "tv-pdhg"),
    }
    for name, more in runs.items():
        assert call("recon", path, "-o", tmp_path / name, "--format", "npz", *more, "--steps", 4)[0] == 0
    records = {name: json.loads((tmp_path / name / "scan.json").read_text()) for name in runs}
    assert {name: one["settings_block"] for name, one in records.items()} == {
        "tuned": "tuned", "posterior": "posterior", "none": None,
    }  # fmt: skip
    posterior = records["posterior"]
    assert (posterior["solver"]["kernel"], posterior["solver"]["n_cg"], posterior["steps"]) == ("ddim", 3, 4)
    assert (posterior["sigma_max"], posterior["samples"]) == (block["sigma_max"], 2)
    assert posterior["solver"]["calibrated"] is False  # the solver's own statement, whatever the block
    known = "choose one of " + ", ".join(load_prior("brain_mri").posterior)
    refused(capsys, "recon", path, "-o", tmp_path / "x", "--posterior", "--solver", "dps", words=["'dps'", known])
    refused(capsys, "recon", path, "-o", tmp_path / "x", "--posterior", "--start", "tv", "--start-sigma", "0.1",
            words=["warm start"])  # fmt: skip
    refused(capsys, "recon", path, "-o", tmp_path / "x", "--posterior", "--solver", "tv", "--bundle", "classical",
            words=["bundle classical", "no settings for posterior samples"])  # fmt: skip
    assert not (tmp_path / "x").exists()


def test_recon_of_several_samples_prints_their_self_test_unless_quiet(scan, tmp_path, capsys):
    path, _ = scan()
    plain = ("recon", path, "--format", "npz", "--steps", 3)
    _, printed = call(*plain, "--samples", 3, "-o", tmp_path / "several", capsys=capsys)
    facts = json.loads((tmp_path / "several" / "scan.json").read_text())["uncertainty"]
    line = printed.out.splitlines()[1]
    assert line.startswith(f"self-test: {facts['self_test']['text']}; flagged {facts['flagged_fraction']:.1%}, ")
    assert line.endswith(f"not measured {facts['null_energy']:.1%} of the energy")
    _, printed = call(*plain, "--samples", 3, "-q", "-o", tmp_path / "quiet", capsys=capsys)
    assert len(printed.out.splitlines()) == 1
    _, printed = call(*plain, "-o", tmp_path / "one", capsys=capsys)
    assert len(printed.out.splitlines()) == 1
    assert "uncertainty" not in json.loads((tmp_path / "one" / "scan.json").read_text())
    _, printed = call(*plain, "--samples", 2, "--noise-std", 0, "-o", tmp_path / "noiseless", capsys=capsys)
    assert printed.out.splitlines()[1].startswith("no self-test, because the noise level is 0")


def test_info(scan, capsys):
    path, _ = scan(slices=2)
    code, printed = call("info", path, "--json", capsys=capsys)
    facts = json.loads(printed.out)
    assert code == 0
    assert (facts["slices"], facts["coils"], facts["matrix"]) == (2, 4, [40, 36])
    assert facts["acceleration"] == 2.0
    assert facts["acs"][0] == 40
    assert facts["acs"][1] >= 12
    code, printed = call("info", path, capsys=capsys)
    assert "acceleration: 2.0" in printed.out


def test_undersample_writes_fastmri_layout_and_nothing_to_peek_at(scan, tmp_path, capsys):
    path, _ = scan(full=True)
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = np.ones((1, 40, 36), np.float32)
        file.attrs["max"], file.attrs["acquisition"] = 3.0, "T1"
    out = tmp_path / "new" / "u.h5"
    code, printed = call("undersample", path, "-o", out, "--accel", 3, "--acs", 8, "--seed", 5, capsys=capsys)
    assert code == 0
    assert "acceleration 3.000" in printed.out
    with h5py.File(out) as file:
        assert set(file) == {"kspace", "mask"}
        mask = file["mask"][()]
        assert mask.dtype == bool
        assert np.array_equal(mask, undersampling_mask((40, 36), "gaussian1d", 3, 8, 5))
        assert np.array_equal(file["kspace"][()], load_kspace(path).kspace * mask)
        assert file.attrs["acquisition"] == "T1"
        assert "max" not in file.attrs
    refused(capsys, "undersample", path, "-o", out, words=["u.h5", "--overwrite"])
    assert call("undersample", path, "-o", out, "--kind", "gaussian2d", "--acs", 8, "--overwrite")[0] == 0
    assert load_kspace(out).mask.shape == (40, 36)
    refused(capsys, "undersample", path, "-o", tmp_path / "v.h5", "--kind", "gauss", words=["gaussian1d"])
    refused(capsys, "undersample", path, "-o", tmp_path / "v.h5", "--accel", 9, words=["do not fit"])
    refused(capsys, "undersample", path, "-o", tmp_path / "v.npy", words=["v.h5"])
    refused(capsys, "undersample", path, "-o", path, "--overwrite", words=["its own input"])
    refused(capsys, "undersample", out, "-o", tmp_path / "v.h5", "--acs", 8, words=["undersampled already"])
    assert not (tmp_path / "v.h5").exists()


@pytest.mark.parametrize("shape", [(40, 36), (31, 33)])
def test_recon_nifti_beside_the_truth(scan, tmp_path, shape):
    path, truth = scan(shape=shape, slices=2)
    assert call("recon", path, "-o", tmp_path / "out", "--steps", 8)[0] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["scan.json", "scan.nii.gz"]
    image = nib.load(tmp_path / "out" / "scan.nii.gz")
    volume = np.asarray(image.dataobj)
    assert volume.dtype == np.float32
    assert volume.shape == (*shape[::-1], 2)
    zero_filled = np.linalg.norm(truth)
    assert np.linalg.norm(volume.transpose(2, 1, 0) - truth) < 0.15 * zero_filled  # right scale, no flip, no shift
    record = json.loads((tmp_path / "out" / "scan.json").read_text())
    assert record["network_evaluations"] == 16
    assert record["solver"]["name"] == "dds"
    assert record["seed"] == 0
    assert record["acceleration"] == pytest.approx(shape[1] / (shape[1] // 2), abs=1e-3)
    assert len(record["bundle"]["weights_sha256"]) == 64
    assert 0.002 < record["noise_std"] < 0.05  # 0.002 and the signal that this small phantom has at its k-space edge
    assert 0 < record["relative_residual"] < 0.1
    assert record["affine_known"] is False
    assert {"versions", "seconds", "steps", "samples", "noise_source", "maps_source", "input"} <= set(record)


def test_recon_h5_samples_slices_and_seeds(scan, tmp_path):
    path, _ = scan(slices=3)

    def run(name, *more):
        assert call("recon", path, "-o", tmp_path / name, "--format", "h5", "--steps", 3, *more)[0] == 0
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == ["scan.h5", "scan.json"]
        with h5py.File(tmp_path / name / "scan.h5") as file:
            return {key: file[key][()] for key in file}

    every = run("a")
    assert set(every) == {"reconstruction"}
    assert every["reconstruction"].shape == (3, 40, 36)
    assert every["reconstruction"].dtype == np.float32
    assert np.array_equal(run("b")["reconstruction"], every["reconstruction"])
    assert np.array_equal(run("c", "--slices", "1:3")["reconstruction"], every["reconstruction"][1:])
    assert not np.array_equal(run("d", "--seed", 1)["reconstruction"], every["reconstruction"])
    several = run("e", "--samples", 3)
    assert several["samples"].shape == (3, 3, 40, 36)
    assert np.allclose(several["samples"].mean(0), several["reconstruction"], atol=1e-6)
    assert np.array_equal(several["samples"][0], every["reconstruction"])  # sample 0 does not know the others
    assert several["samples"].std(0).max() > 0


def test_recon_takes_mask_maps_settings_and_single_coils(scan, tmp_path, capsys):
    path, truth = scan()
    data = load_kspace(path)
    np.save(tmp_path / "maps.npy", loop_coils((40, 36), 4))
    np.save(tmp_path / "mask.npy", data.mask)
    code, _ = call(
        "recon", path, "-o", tmp_path / "o", "--maps", tmp_path / "maps.npy", "--mask", tmp_path / "mask.npy", "--solver",
        "cg-sense", "--set", "solver.lam=0.001", "--noise-std", 0.5, "--threads", 2,
    )  # fmt: skip
    assert code == 0
    record = json.loads((tmp_path / "o" / "scan.json").read_text())
    assert record["solver"]["lam"] == 0.001
    assert record["noise_std"] == 0.5
    assert (record["maps_source"], record["noise_source"]) == ("given", "given")
    np.save(tmp_path / "maps10.npy", 10 * loop_coils((40, 36), 4))
    assert call("recon", path, "-o", tmp_path / "o10", "--maps", tmp_path / "maps10.npy", "--solver", "cg-sense", "--set",
                "solver.lam=0.001")[0] == 0  # fmt: skip
    ten = np.asarray(nib.load(tmp_path / "o10" / "scan.nii.gz").dataobj)
    assert np.allclose(ten, np.asarray(nib.load(tmp_path / "o" / "scan.nii.gz").dataobj), atol=1e-4)
    assert "divided by 10" in json.loads((tmp_path / "o10" / "scan.json").read_text())["maps_source"]
    image = np.asarray(nib.load(tmp_path / "o" / "scan.nii.gz").dataobj).transpose(2, 1, 0)
    assert np.linalg.norm(image - truth) < 0.1 * np.linalg.norm(truth)

    single, truth = scan(coils=1, accel=1.5, name="single.h5")
    assert call("recon", single, "-o", tmp_path / "s", "--solver", "tv")[0] == 0
    with h5py.File(tmp_path / "noise.h5", "w") as file:
        file["kspace"], file["mask"] = data.kspace, data.mask
        rng = np.random.default_rng(0)
        file["noise"] = (0.3 * (rng.standard_normal((4, 4000)) + 1j * rng.standard_normal((4, 4000)))).astype(
            np.complex64
        )
    assert call("recon", tmp_path / "noise.h5", "-o", tmp_path / "n", "--solver", "zero-filled")[0] == 0
    record = json.loads((tmp_path / "n" / "noise.json").read_text())
    assert record["noise_source"] == "noise scan"
    assert record["noise_std"] == pytest.approx(0.3, rel=0.03)


def test_recon_refuses_in_one_sentence_and_leaves_nothing(scan, tmp_path, capsys, monkeypatch):
    path, _ = scan()
    out = tmp_path / "out"
    data = load_kspace(path)

    def bad(*arguments, words):
        refused(capsys, "recon", *arguments, "-o", out, words=words)
        assert not out.exists()

    bad(tmp_path / "none.h5", words=["none.h5", "no such file"])
    bad(path, "--solver", "ddss", words=["'ddss'", "'dds'"])
    bad(path, "--bundle", "brain", words=["'brain'", "'brain_mri'"])
    bad(path, "--set", "solver.gamma=0", words=["gamma", "must be in"])
    bad(path, "--set", "solver.eta=1.5", words=["eta", "[0, 1]"])
    bad(path, "--set", "solver.kernel=foo", words=["kernel", "ddim"])
    bad(path, "--solver", "wavelet", "--set", "solver.wavelet=bior2.2", words=["bior2.2", "orthogonal"])
    bad(path, "--solver", "tv", "--samples", 3, words=["'tv'", "no random samples"])
    bad(path, "--device", "cuda:77", words=["device"])
    bad(path, "--set", "solver.gama=1", words=["gama", "gamma"])
    bad(path, "--set", "solver.gamma=high", words=["gamma", "float", "high"])
    bad(path, "--set", "gamma=1", words=["solver.gamma=5"])
    bad(path, "--solver", "mgdm", "--set", "solver.zeta=2", words=["zeta"])
    bad(path, "--solver", "heun", words=["'heun'", "prior alone", "'dds'"])
    bad(path, "--solver", "ddrm", words=["Spectral", "DDS or DDNM"])
    bad(path, "--solver", "scoremri", "--set", "solver.coils=x", words=["no setting 'coils'"])
    bad(path, "--start", "cg-sense", words=["start_sigma", "belong together"])
    bad(path, "--start", "dps", "--start-sigma", "0.1", words=["without one", "'dps'"])
    bad(path, "--start", "tv", "--start-sigma", "0.001", words=["above the last level"])
    bad(path, "--start", "cg-sens", "--start-sigma", "0.1", words=["did you mean 'cg-sense'"])
    bad(path, "--samples", 0, words=["from 1 to"])
    bad(path, "--slices", "5:7", words=["no slices in 5:7", "there are 1"])
    bad(path, "--noise-std", "-1", words=["not negative"])
    bad(path, "--device", "tpu", words=["tpu", "cpu"])
    np.save(tmp_path / "maps.npy", loop_coils((40, 36), 3))
    bad(path, "--maps", tmp_path / "maps.npy", words=["maps.npy", "one map per coil"])
    np.save(tmp_path / "mask.npy", np.zeros(36, bool))
    bad(path, "--mask", tmp_path / "mask.npy", words=["mask.npy", "0 everywhere"])
    np.save(tmp_path / "mask.npy", np.ones(36, bool))
    bad(path, "--mask", tmp_path / "mask.npy", words=["mask.npy", "that are zero"])
    np.save(tmp_path / "maps.npy", np.full((4, 40, 36), np.nan, np.complex64))
    bad(path, "--maps", tmp_path / "maps.npy", words=["maps", "NaN"])
    np.save(tmp_path / "mask.npy", ~data.mask)
    bad(path, "--mask", tmp_path / "mask.npy", words=["mask.npy", "zeros"])
    with h5py.File(tmp_path / "no_acs.h5", "w") as file:
        file["kspace"] = data.kspace * (np.arange(36) % 3 == 0)
    bad(tmp_path / "no_acs.h5", words=["no_acs.h5", "--maps"])

    (tmp_path / "file").write_text("")
    refused(capsys, "recon", path, "-o", tmp_path / "file", words=["file"])
    refused(capsys, "recon", path, "-o", tmp_path / "file" / "sub", words=["cannot be written"])

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        bad(path, "--solver", "zero-filled", words=["No space left on device", "free space"])
    assert call("recon", path, "-o", out, "--solver", "zero-filled")[0] == 0
    capsys.readouterr()
    before = (out / "scan.nii.gz").read_bytes()
    refused(capsys, "recon", path, "-o", out, "--solver", "cg-sense", words=["scan.nii.gz", "--overwrite"])
    assert (out / "scan.nii.gz").read_bytes() == before
    assert call("recon", path, "-o", out, "--solver", "cg-sense", "--overwrite")[0] == 0
    assert (out / "scan.nii.gz").read_bytes() != before


def test_recon_never_replaces_its_input(scan, tmp_path, capsys):
    path, _ = scan()
    before = path.read_bytes()
    refused(capsys, "recon", path, "-o", tmp_path, "--format", "h5", "--overwrite", words=["scan.h5", "its own input"])
    assert path.read_bytes() == before


def test_overwriting_leaves_no_stale_samples(scan, tmp_path):
    path, _ = scan()
    assert call("recon", path, "-o", tmp_path / "o", "--steps", 2, "--samples", 2)[0] == 0
    assert (tmp_path / "o" / "scan_samples.nii.gz").is_file()
    assert call("recon", path, "-o", tmp_path / "o", "--steps", 2, "--overwrite")[0] == 0
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["scan.json", "scan.nii.gz"]


def test_classical_solvers_need_no_weights(scan, tmp_path):
    import shutil

    from medrecon.bundle import find_bundle

    path, _ = scan()
    shutil.copytree(find_bundle("brain_mri"), tmp_path / "b", ignore=shutil.ignore_patterns("models"))
    assert call("recon", path, "-o", tmp_path / "o", "--solver", "tv", "--bundle", tmp_path / "b")[0] == 0
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["bundle"] is None


def test_evaluate(scan, tmp_path, capsys):
    full, _ = scan(full=True, noise=1e-4, name="full.h5", shape=(64, 60))
    call("undersample", full, "-o", tmp_path / "u.h5", "--accel", 2, "--acs", 20)
    for solver in ("zero-filled", "tv"):
        call("recon", tmp_path / "u.h5", "-o", tmp_path / solver, "--solver", solver, "--format", "h5")
    call("recon", tmp_path / "u.h5", "-o", tmp_path / "n", "--solver", "tv")
    capsys.readouterr()

    def score(path, *more):
        code, printed = call("evaluate", path, "--reference", full, "--json", *more, capsys=capsys)
        assert code == 0, printed
        return json.loads(printed.out)

    poor, good = score(tmp_path / "zero-filled" / "u.h5"), score(tmp_path / "tv" / "u.h5")
    assert good["psnr"] > poor["psnr"] + 3
    assert good["ssim"] > poor["ssim"]
    assert good["nmse"] < poor["nmse"]
    assert score(tmp_path / "n" / "u.nii.gz") == good

    with h5py.File(tmp_path / "tv" / "u.h5") as file, h5py.File(tmp_path / "scaled.h5", "w") as scaled:
        scaled["reconstruction"] = 2 * file["reconstruction"][()]
    assert score(tmp_path / "scaled.h5")["psnr"] < 15
    assert score(tmp_path / "scaled.h5", "--fit-scale")["psnr"] >= good["psnr"] - 1e-3
    # Samples that happen to be 0, as whole numbers have them, are no gaps.
    with h5py.File(full) as file, h5py.File(tmp_path / "zeros.h5", "w") as zeros:
        kspace = file["kspace"][()]
        kspace[..., [3, 40, 61], [50, 7, 55]] = 0
        zeros["kspace"] = kspace
    assert call("evaluate", tmp_path / "n" / "u.nii.gz", "--reference", tmp_path / "zeros.h5")[0] == 0
    capsys.readouterr()
    # Complex images are judged by their magnitude (the real part was), phases not at all.
    call("recon", tmp_path / "u.h5", "-o", tmp_path / "c", "--solver", "tv", "--part", "complex")
    call("recon", tmp_path / "u.h5", "-o", tmp_path / "p", "--solver", "tv", "--part", "mag-phase")
    capsys.readouterr()
    # The magnitude of rounded parts is rounded otherwise.
    assert score(tmp_path / "c" / "u.nii.gz") == pytest.approx(good, rel=1e-5)
    assert score(tmp_path / "p" / "u_part-mag.nii.gz") == good
    refused(capsys, "evaluate", tmp_path / "p" / "u_part-phase.nii.gz", "--reference", full, words=["not a magnitude"])
    # The formulas, by hand.
    from medrecon.data.espirit import combined_reference

    reference = combined_reference(load_kspace(full).kspace)
    with h5py.File(tmp_path / "tv" / "u.h5") as file:
        error = np.mean((file["reconstruction"][()] - reference) ** 2)
    assert good["psnr"] == pytest.approx(10 * np.log10(reference.max() ** 2 / error), abs=1e-3)
    assert good["nmse"] == pytest.approx(error / np.mean(reference**2), rel=1e-4)

    refused(capsys, "evaluate", tmp_path / "none.h5", "--reference", full, words=["none.h5"])
    refused(capsys, "evaluate", tmp_path / "tv" / "u.h5", "--reference", tmp_path / "u.h5", words=["fully sampled"])
    other, _ = scan(full=True, name="other.h5")
    refused(capsys, "evaluate", tmp_path / "tv" / "u.h5", "--reference", other, words=["shape"])
    (tmp_path / "x.nii.gz").write_text("no")
    refused(capsys, "evaluate", tmp_path / "x.nii.gz", "--reference", full, words=["x.nii.gz", "NIfTI"])


@pytest.mark.slow
def test_the_wheel_carries_the_bundle(tmp_path):
    import zipfile

    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(root)]
    subprocess.run(command, check=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    wanted = {"configs/inference.yaml", "configs/prior.yaml", "configs/metadata.json", "models/model.pt", "LICENSE"}
    assert {f"medrecon/bundles/brain_mri/{name}" for name in wanted} <= names
    assert not any("checkpoints" in name for name in names)


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    code, printed = call("demo", "-o", tmp_path / "demo", capsys=capsys)
    assert code == 0
    table = json.loads((tmp_path / "demo" / "metrics.json").read_text())["methods"]
    assert len(table) == 5
    assert max(table, key=lambda name: table[name]["ssim"]) == "diffusion (DDS)"
    assert "PSNR" in printed.out
    names = {p.name for p in (tmp_path / "demo").iterdir()}
    assert {"montage.png", "metrics.json", "reference.nii.gz", "dds.nii.gz", "tv.nii.gz"} <= names
