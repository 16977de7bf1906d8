"""Pages of runs and of folders, through the command line: the same page, one of the run's files, for every kind and format."""

import hashlib
import json
import re
import shutil
from itertools import pairwise

import numpy as np
import pytest

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.scan import Geometry
from medrecon.formats import load, load_array, save_fastmri
from medrecon.reconstruction import plan
from medrecon.report.baselines import classical, inputs_of, zero_filled
from medrecon.report.gather import entry_of_scores, find_beside, reference_of, scores_of
from medrecon.volumes import Volume
from medrecon.writers.nifti import nifti_bytes

from ..make.toys import White, cartesian, columns, noncartesian, picture, sinogram, spec

AFFINE = np.array([[-1.0, 0, 0, 7.0], [0, -1.0, 0, 9.0], [0, 0, 2.0, 3.0], [0, 0, 0, 1]])


def kspace_file(folder, name="scan.h5"):
    save_fastmri(folder / name, cartesian(mask=columns(), noise=0.01)[0])
    return folder / name


def reference_file(folder, name="full.h5"):
    save_fastmri(folder / name, cartesian()[0])
    return folder / name


def sinogram_file(folder):
    scan = sinogram("parallel")
    np.savez(folder / "scan.npz", sino=scan.sinogram, theta_rad=scan.angles, detector_spacing_mm=scan.detector_spacing)
    return folder / "scan.npz"


def image_file(folder):
    volume = np.stack([picture(noise=30.0), picture(noise=30.0, seed=1)])
    (folder / "scan.nii.gz").write_bytes(nifti_bytes(volume, Geometry((2.0, 1.0, 1.0), AFFINE)))
    return folder / "scan.nii.gz"


def radial_file(folder):
    scan = noncartesian(cartesian(noise=0.01, slices=1)[0])
    np.savez(folder / "scan.npz", kspace=scan.samples, trajectory=scan.trajectory[0], matrix=scan.matrix)
    return folder / "scan.npz"


def frames_file(folder):
    scan, *_ = cartesian(slices=1, noise=0.01)
    np.savez(folder / "scan.npz", kspace=np.stack([scan.kspace * columns(), scan.kspace * np.roll(columns(), 2, 1)]))
    return folder / "scan.npz"


def moving_file(folder):
    """With labels of shots in a file of their own."""
    path = kspace_file(folder)
    mask = columns().all(0)
    np.savez(folder / "shots.npz", shots=np.where(mask, (np.cumsum(mask) - 1) % 3, -1))
    return path


KINDS = {
    "k-space": (kspace_file, []),
    "k-space, joint maps": (kspace_file, ["--maps", "joint"]),
    "k-space, moving": (moving_file, ["--correct-motion", "--shots", "FOLDER/shots.npz"]),
    "k-space, HDF5": (kspace_file, ["--format", "h5"]),
    "k-space, npz": (kspace_file, ["--format", "npz", "--slices", "1:2"]),
    "sinogram": (sinogram_file, ["--image-size", "48", "--voxel", "1.5"]),
    "image": (image_file, ["--region", "5:40,3:30"]),
    "image, finer": (image_file, ["--task", "superres"]),
    "trajectory": (radial_file, []),
    "frames": (frames_file, ["--dynamic", "phase", "--format", "h5"]),
}


def recon(path, out, *more):
    return main(["recon", str(path), "-o", str(out), "--steps", "2", "--samples", "2", "--report", *more])


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_the_page_of_its_run(kind, tmp_path):
    """``medrecon report`` writes what ``recon --report`` wrote, byte by byte, from the files alone and the scan."""
    make, more = KINDS[kind]
    path, out = make(tmp_path), tmp_path / "out"
    assert recon(path, out, *[word.replace("FOLDER", str(tmp_path)) for word in more]) == 0
    page, sidecar = out / "scan.html", json.loads((out / "scan.json").read_text())
    first = page.read_bytes()
    assert sidecar["files"][-1] == "scan.html" and sidecar["sha256"]["scan.html"] == hashlib.sha256(first).hexdigest()
    assert main(["report", str(out), "--scan", str(path)]) == 0
    assert page.read_bytes() == first
    assert json.loads((out / "scan.json").read_text()) == sidecar
    assert main(["report", str(out)]) == 0  # without the scan
    assert b"run medrecon report with --scan" in page.read_bytes()


def test_dicom_output_is_shown(tmp_path):
    """Its maps are read from parametric maps; DICOM has no samples, and pixels are rounded."""
    path, out = image_file(tmp_path), tmp_path / "out"
    assert recon(path, out, "--format", "dicom") == 0
    assert "--format=dicom" in (out / "scan.html").read_text()
    assert main(["report", str(out), "--scan", str(path)]) == 0
    text = (out / "scan.html").read_text()
    assert "image, transparent by spread, slice 1" in text and "left edge R, right L, top A, bottom P" in text


def test_the_page_belongs_to_the_files_of_the_run(tmp_path):
    """It is replaced with them, removed with them, and refuses to replace other files."""
    path, out = kspace_file(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "scan.html").write_text("notes of the user")
    assert recon(path, out) == 2
    assert [one.name for one in out.iterdir()] == ["scan.html"]
    (out / "scan.html").unlink()
    assert recon(path, out, "--solver", "dds") == 0
    assert main(["recon", str(path), "-o", str(out), "--solver", "tv", "--overwrite"]) == 0
    assert sorted(one.name for one in out.iterdir()) == ["scan.json", "scan.nii.gz"]


def test_a_page_of_the_user_is_not_replaced(tmp_path, capsys):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert main(["recon", str(path), "-o", str(out), "--solver", "tv"]) == 0
    (out / "scan.html").write_text("notes of the user")
    assert main(["report", str(out)]) == 1
    assert (out / "scan.html").read_text() == "notes of the user"
    assert "scan.html" in capsys.readouterr().err
    assert main(["report", str(out), "--overwrite"]) == 0
    assert "notes of the user" not in (out / "scan.html").read_text()


def test_several_scans_have_pages_and_are_skipped(tmp_path, capsys):
    folder, full = tmp_path / "scans", tmp_path / "full"
    folder.mkdir(), full.mkdir()
    for name in ("a.h5", "b.h5"):
        kspace_file(folder, name), reference_file(full, name)
    command = ["recon", str(folder), "-o", str(tmp_path / "out"), "--solver", "tv", "--workers", "2"]
    report = ["--report", "--reference", str(full)]
    assert main([*command, *report]) == 0
    assert {one.name for one in (tmp_path / "out").glob("*.html")} == {"a.html", "b.html"}
    assert "Absolute error" in (tmp_path / "out" / "a.html").read_text()
    capsys.readouterr()
    assert main([*command, *report]) == 0
    assert "2 skipped" in capsys.readouterr().out
    entries = json.loads((tmp_path / "out" / "run.json").read_text())["cases"]
    assert [entry["status"] for entry in entries] == ["skipped", "skipped"]
    (tmp_path / "out" / "a.html").unlink()  # the page is one of the files: the run is not finished without it
    assert main([*command, *report, "--overwrite"]) == 0
    assert (tmp_path / "out" / "a.html").exists()


def test_images_of_earlier_runs_are_skipped_without_a_report(tmp_path, capsys):
    folder = tmp_path / "scans"
    folder.mkdir()
    kspace_file(folder, "a.h5"), kspace_file(folder, "b.h5")
    command = ["recon", str(folder), "-o", str(tmp_path / "out"), "--solver", "tv"]
    assert main([*command, "--report"]) == 0
    assert main(command) == 0
    assert "2 skipped" in capsys.readouterr().out


def test_bids_names(tmp_path):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert recon(path, out, "--bids", "sub-01_T1w") == 0
    pages = list(out.rglob("*.html"))
    assert len(pages) == 1 and pages[0].with_suffix(".json").exists()
    first = pages[0].read_bytes()
    assert main(["report", str(out), "--scan", str(path)]) == 0
    assert pages[0].read_bytes() == first


def test_the_command_of_the_page_makes_the_same_image(tmp_path):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert recon(path, out, "--seed", "5", "--slices=1:", "--set", "solver.eta=0.5") == 0
    text = re.search(r"<pre><code>(medrecon recon .*?)</code>", (out / "scan.html").read_text())[1]
    words = text.split()[1:]
    words[words.index("scan.h5")], words[words.index("out")] = str(path), str(tmp_path / "again")
    assert main(words) == 0
    assert (tmp_path / "again" / "scan.nii.gz").read_bytes() == (out / "scan.nii.gz").read_bytes()
    assert (tmp_path / "again" / "scan.html").exists()


def test_a_reference_gives_errors_and_scores(tmp_path):
    path, full, out = kspace_file(tmp_path), reference_file(tmp_path), tmp_path / "out"
    assert main(["recon", str(path), "-o", str(out), "--solver", "cg-sense", "--report", "--reference", str(full)]) == 0
    text = (out / "scan.html").read_text()
    main(["evaluate", str(out / "scan.nii.gz"), "--reference", str(full), "--json"])
    assert "error of cg-sense" in text and "error of zero-filled" in text and "PSNR (dB)" in text


def test_scores_are_those_of_evaluate(tmp_path, capsys):
    path, full, out = kspace_file(tmp_path), reference_file(tmp_path), tmp_path / "out"
    assert main(["recon", str(path), "-o", str(out), "--solver", "cg-sense", "--report", "--reference", str(full)]) == 0
    capsys.readouterr()
    main(["evaluate", str(out / "scan.nii.gz"), "--reference", str(full), "--json"])
    psnr = json.loads(capsys.readouterr().out)["psnr"]
    assert f"{psnr:.2f} dB" in (out / "scan.html").read_text()
    sidecar = (out / "scan.json").read_text()
    assert json.loads(sidecar)["metrics"]["psnr"] == psnr
    page = (out / "scan.html").read_text()
    assert main(["report", str(out), "--scan", str(path), "--reference", str(full)]) == 0
    assert ((out / "scan.json").read_text(), (out / "scan.html").read_text()) == (sidecar, page)


def test_a_perfect_image_has_valid_json(tmp_path):
    """The PSNR of equal images is infinite, which JSON cannot express."""
    image = picture()[None].astype(np.float32)
    scores = scores_of(image, Volume(path=tmp_path, array=image), is_ct=False)
    assert scores["psnr"] == np.inf
    assert json.dumps(entry_of_scores(scores), allow_nan=False)
    assert entry_of_scores(scores)["metrics"]["ssim"] == pytest.approx(1)


def test_references_of_frames_have_one_plane_per_frame(tmp_path, capsys):
    path, out, frames = frames_file(tmp_path), tmp_path / "out", tmp_path / "frames.nii.gz"
    full = np.random.default_rng(0).random((36, 31)).astype(np.float32)
    options = ["--dynamic", "phase", "--format", "h5", "--reference", str(frames)]
    frames.write_bytes(nifti_bytes(full[None], Geometry()))
    assert recon(path, out, *options) == 2
    assert "frames.nii.gz" in capsys.readouterr().err and not out.exists()
    frames.write_bytes(nifti_bytes(np.stack([full, 2 * full]), Geometry()))
    assert recon(path, out, *options) == 0
    image = load_array(out / "scan.h5", "reconstruction")[:, 0]
    error = np.sqrt(np.mean((image.astype(float) - np.stack([full, 2 * full])) ** 2))
    assert json.loads((out / "scan.json").read_text())["metrics"]["rmse"] == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("problem", ["missing", "other shape", "without report"])
def test_a_reference_that_does_not_fit_is_refused_before_the_run(problem, tmp_path, capsys):
    path, out, reference = kspace_file(tmp_path), tmp_path / "out", tmp_path / "full.h5"
    if problem != "missing":
        save_fastmri(reference, cartesian(shape=(20, 20))[0])
    more = [] if problem == "without report" else ["--report"]
    assert main(["recon", str(path), "-o", str(out), "--solver", "tv", *more, "--reference", str(reference)]) == 2
    assert not out.exists()
    assert ("--report" if problem == "without report" else "full.h5") in capsys.readouterr().err


def test_a_reference_of_the_whole_scan_fits_some_of_its_slices(tmp_path):
    full = load(reference_file(tmp_path))
    geometry = Geometry((1.0, 1.0, 1.0), None)
    whole = reference_of(tmp_path / "full.h5", (2, *full.matrix), geometry=geometry, numbers=[0, 1], is_ct=False)
    one = reference_of(tmp_path / "full.h5", (1, *full.matrix), geometry=geometry, numbers=[1], is_ct=False)
    assert np.array_equal(one.array, whole.array[1:])


def test_a_folder_without_images_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert "no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("fault", ["image changed", "image missing", "files outside", "not a list", "scan missing"])
def test_files_that_do_not_fit_are_refused_and_nothing_is_written(fault, tmp_path, capsys):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert main(["recon", str(path), "-o", str(out), "--solver", "tv"]) == 0
    sidecar = out / "scan.json"
    record = json.loads(sidecar.read_text())
    if fault == "image changed":
        shutil.copy(kspace_file(tmp_path, "other.h5"), out / "scan.nii.gz")
    if fault == "image missing":
        (out / "scan.nii.gz").unlink()
    if fault == "files outside":
        shutil.copy(out / "scan.nii.gz", tmp_path / "x.nii.gz")
        record["files"] = ["../x.nii.gz"]
        sidecar.write_text(json.dumps(record))
    if fault == "not a list":
        sidecar.write_text(json.dumps({**record, "files": [1, None]}))
    more = ["--scan", str(tmp_path / "none.h5")] if fault == "scan missing" else []
    before = sidecar.read_bytes()
    assert main(["report", str(out), *more]) == 1
    assert not (out / "scan.html").exists() and sidecar.read_bytes() == before
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "entries",
    [
        {"residual_over_noise": "much"}, {"acceleration": [1]}, {"steps": 10**400}, {"affine": [[10**400] * 4] * 4},
        {"seconds": None}, {"solver": {"name": 3}}, {"warnings": 5},
        {"slices": "all"}, {"slices": [0.5, "x"]}, {"affine": "?"}, {"bundle": "name"}, {"versions": []}, {"sha256": {"a": 1}},
        {"options": {"slices": "a:b"}}, {"options": 5}, {"uncertainty": {"null_energy": "x", "self_test": 4}},
        {"residual_by_level": [[1], "ab", [None, 2]]}, {"samples": "many"}, {"particles": 3}, {"maps": {"std": {"files": [7]}}},
        {"frames": -3}, {"modality": {}}, {"symmetries": 1},
    ],
)  # fmt: skip
def test_a_changed_sidecar_is_shown_or_refused_in_a_sentence(entries, tmp_path, capsys):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert main(["recon", str(path), "-o", str(out), "--solver", "zero-filled"]) == 0
    record = json.loads((out / "scan.json").read_text())
    (out / "scan.json").write_text(json.dumps({**record, **entries}))
    code = main(["report", str(out), "--scan", str(path)])
    assert code in (0, 1) and (out / "scan.html").exists() == (code == 0)
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_is_found_by_the_name_of_the_scan(tmp_path):
    (
        (tmp_path / "a.h5").touch(),
        (tmp_path / "b.nii.gz").touch(),
        (tmp_path / "c.h5").touch(),
        (tmp_path / "c.npz").touch(),
    )
    assert find_beside(tmp_path, "a.h5") == tmp_path / "a.h5"
    assert find_beside(tmp_path, "b.h5") == tmp_path / "b.nii.gz"
    assert find_beside(tmp_path / "a.h5", "x.h5") == tmp_path / "a.h5"
    assert find_beside(tmp_path, tmp_path.name) == tmp_path  # a folder of DICOM
    for name in ("c.mrd", "d.h5"):
        with pytest.raises(InputError, match=name[0]):
            find_beside(tmp_path, name)


# Comparisons and inputs


def test_the_zero_filled_image_is_that_of_the_solver():
    scan = cartesian(mask=columns(), noise=0.01)[0]
    planned = plan(scan, solver="cg-sense", bundle=spec())
    found = zero_filled(planned.problem, [1], "cg-sense")
    assert found.name == "zero-filled"
    assert np.allclose(found.image[0], plan(scan, solver="zero-filled", bundle=spec()).run().image[1], rtol=1e-5)
    other = classical(planned.problem, [0, 1], "dds")
    assert other.name == "tv" and other.settings["n_iter"] == 20
    tv = plan(scan, solver="tv", settings={"n_iter": 20}, bundle=spec()).run().image
    assert np.allclose(other.image, tv, rtol=1e-4, atol=1e-5 * tv.max())
    assert classical(planned.problem, [0], "tv").name == "cg-sense"
    assert zero_filled(planned.problem, [0], "zero-filled") is None


def test_filtered_back_projection_takes_its_place_for_sinograms():
    scan = sinogram("parallel")
    planned = plan(scan, solver="tv", image_size=48)
    assert zero_filled(planned.problem, [0], "tv").name == "fbp"
    assert np.allclose(
        zero_filled(planned.problem, [0], "tv").image,
        plan(scan, solver="fbp", image_size=48, settings={"kind": "ramp"}).run().image[:1],
        atol=1e-2,
    )
    lines = inputs_of(planned.problem, 0).sinogram
    assert np.array_equal(lines, scan.sinogram[0])


def test_frames_are_shown_in_the_order_of_the_image(tmp_path):
    scan = load(frames_file(tmp_path), frames="phase")
    planned = plan(scan, solver="tv", bundle=spec())
    image = plan(scan, solver="zero-filled", bundle=spec()).run().image
    found = zero_filled(planned.problem, [1], "tv")
    assert np.allclose(found.image[0], image.reshape(-1, *image.shape[-2:])[1], rtol=1e-5)
    given = inputs_of(planned.problem, 1)
    assert np.array_equal(given.mask, scan.mask[1])


def test_the_inputs_are_those_of_the_plane():
    scan, _, maps = cartesian(mask=columns(), noise=0.01)
    planned = plan(scan, solver="tv", maps=maps, bundle=spec())
    given = inputs_of(planned.problem, 1)
    assert np.array_equal(given.mask, np.broadcast_to(columns(), given.mask.shape))
    y0, y1, x0, x1 = given.acs
    assert columns()[y0:y1, x0:x1].all() and (x1 - x0, y1 - y0) == (13, 36)  # the next lines are sampled, too
    scale = np.sqrt((np.abs(maps) ** 2).sum(0).max())
    assert np.allclose(
        given.coil_maps, np.abs(maps) / max(scale, 1) if abs(scale - 1) > 0.01 else np.abs(maps), atol=1e-5
    )
    energy = (np.abs(scan.kspace[1]) ** 2).sum(0)
    assert given.kspace.argmax() == energy.argmax() and given.kspace.max() == 1
    assert np.allclose(given.kspace, np.clip(1 + np.log10(np.sqrt(energy / energy.max()) + 1e-30) / 4, 0, 1), atol=1e-5)


# Residual by level


def test_the_residual_by_level_is_that_of_the_clean_estimates():
    """With a white prior of standard deviation s, whose clean estimate at level sigma is ``x s^2 / (s^2 + sigma^2)``."""
    scan, *_ = cartesian(mask=columns(), noise=0.05, slices=1)
    planned = plan(scan, bundle=spec(objective=White(1.0)), steps=6, samples=3, noise_std=0.05)
    record = planned.run(trace=True).record
    levels = record["residual_by_level"]
    assert len(levels) == 6 and all(a[0] > b[0] for a, b in pairwise(levels))
    assert levels[0][1] > 2 * levels[-1][1]  # pure noise does not fit the data, the last estimate does


def test_without_a_report_nothing_is_traced_and_nothing_changes():
    scan, *_ = cartesian(mask=columns(), noise=0.05)
    planned = plan(scan, bundle=spec(), steps=3, samples=2)
    plain, traced = planned.run(), planned.run(trace=True)
    assert "residual_by_level" not in plain.record and "residual_by_level" in traced.record
    assert np.array_equal(plain.image, traced.image) and np.array_equal(plain.samples, traced.samples)
    assert plain.record["network_evaluations"] == traced.record["network_evaluations"]


def test_files_of_another_folder_are_not_shown(tmp_path, capsys):
    """Whatever a sidecar lists: names relative to a folder above it, where BIDS has its files, lead nowhere else."""
    path, out = kspace_file(tmp_path), tmp_path / "below" / "out"
    assert recon(path, out) == 0
    other = tmp_path / "private"
    shutil.copytree(out, other)
    page = (out / "scan.html").read_bytes()
    record = json.loads((out / "scan.json").read_text())
    for name in ("private/scan.nii.gz", "../../private/scan.nii.gz", str(other / "scan.nii.gz")):
        (out / "scan.json").write_text(json.dumps({**record, "files": [name], "sha256": {}}))
        assert main(["report", str(out), "--overwrite"]) == 1
        assert "lists files outside its folder" in capsys.readouterr().err
        assert (out / "scan.html").read_bytes() == page


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan_flags.nii.gz", "scan_samples.nii.gz"])
def test_a_changed_file_is_not_shown(name, tmp_path, capsys):
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert recon(path, out) == 0
    page = (out / "scan.html").read_bytes()
    (out / name).write_bytes((out / "scan_null.nii.gz").read_bytes())
    assert main(["report", str(out)]) == 1
    assert f"{name}: is not the image that scan.json describes" in capsys.readouterr().err
    assert (out / "scan.html").read_bytes() == page


def test_another_scan_is_refused(tmp_path, capsys):
    """Its noise or its matrix differs; the page would show data that the image was not made from."""
    path, out = kspace_file(tmp_path), tmp_path / "out"
    assert recon(path, out) == 0
    page = (out / "scan.html").read_bytes()
    noisy, wide = tmp_path / "noisy.h5", tmp_path / "wide.h5"
    save_fastmri(noisy, cartesian(mask=columns(), noise=0.02)[0])
    save_fastmri(wide, cartesian((64, 56), noise=0.01)[0])
    for other, text in ((noisy, "noise"), (wide, "matrix")):
        assert main(["report", str(out), "--scan", str(other)]) == 1
        error = capsys.readouterr().err
        assert f"{other}: is not the scan of scan (" in error and text in error
        assert (out / "scan.html").read_bytes() == page
