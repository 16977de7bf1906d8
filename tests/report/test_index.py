"""The overview of many reconstructions."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.report.index import NAME, index_page, row_of, write_index

from ..make.calibration import write_case
from ..make.cases import HOSTILE, record, write_many
from ..make.outputs import write_volume


def cells(content):
    """Rows of the table: lists of the cells' contents."""
    body = re.search(r"<tbody>(.*)</tbody>", content.decode(), re.DOTALL).group(1)
    return [
        re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)
        for row in re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
    ]


def write_sidecar(folder, name, **more):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record(**more)))
    return path


def test_every_reconstruction_has_a_row_with_its_numbers(tmp_path):
    write_sidecar(
        tmp_path,
        "a",
        acceleration=4.0,
        residual_over_noise=0.987,
        metrics={"psnr": 31.25, "ssim": 0.9, "nmse": 0.0123},
        uncertainty={"flagged_fraction": 0.0125},
        warnings=["one", "two"],
    )
    (tmp_path / "a.html").write_text("page")
    inner = tmp_path / "inner folder"
    inner.mkdir()
    write_sidecar(inner, "b", solver={"name": "ddnm"}, acceleration=None, residual_over_noise=None, warnings=[])
    os.utime(tmp_path / "a.json", (86400 * 365, 86400 * 365))
    first, second = cells(write_index(tmp_path).read_bytes())
    assert first[1] == '<a href="a.html">a</a>'
    assert first[2:8] == ["dps", "4", "0.987", "31.25", "0.900", "0.0123"]
    assert first[8] == "1.2" and first[10] == "1971-01-01 00:00"
    assert "<summary>2</summary>" in first[9] and "<li>two</li>" in first[9]
    assert second[1:] == ["inner folder/b", "ddnm", "", "", "", "", "", "", "0", second[-1]]


def test_an_image_that_changed_is_named_and_not_shown(tmp_path):
    """Its numbers are those of another image. The heading is not the folder's name, which may be a patient's."""
    out = tmp_path / "DOE^JANE"
    write_case(out, "a", "nifti")
    image = cells(write_index(out).read_bytes())[0]
    assert "<img" in image[0] and image[-2] == "0"
    (out / "a.nii.gz").write_bytes((out / "a_p95.nii.gz").read_bytes())
    content = write_index(out).read_bytes()
    changed = cells(content)[0]
    assert not changed[0] and "its SHA-256 differs" in changed[-2]
    assert b"DOE^JANE" not in content


def test_links_and_names_are_escaped(tmp_path):
    name = HOSTILE.replace("/", "") + "javascript:alert(1) ? # %41 é"
    write_sidecar(tmp_path, name, solver={"name": HOSTILE}, warnings=[HOSTILE])
    (tmp_path / f"{name}.html").write_text("page")
    content = write_index(tmp_path).read_bytes().decode()
    rows = cells(content.encode())
    assert "<img src=x" not in content and "<script>alert" not in content
    target = re.search(r'href="([^"]*)"', rows[0][1]).group(1)
    assert not re.search(r"[:?#<>'\s]", target)  # a path below this folder, whatever the name is
    from urllib.parse import unquote

    assert (tmp_path / unquote(target)).is_file()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_names_that_are_not_text_do_not_stop_the_overview(tmp_path):
    name = os.fsdecode(b"bad\xff")
    write_sidecar(tmp_path, name, solver={"name": "\ud800"})
    (tmp_path / f"{name}.html").write_text("page")
    (row,) = cells(write_index(tmp_path).read_bytes())
    assert 'href="bad%FF.html"' in row[1]


@pytest.mark.parametrize("value", [None, "4", [4], {"a": 1}, True, float("nan"), float("inf"), 10**400])
def test_entries_that_are_not_numbers_are_left_empty(tmp_path, value):
    sidecar = write_sidecar(tmp_path, "a")
    entries = {"acceleration": value, "residual_over_noise": value, "metrics": {"psnr": value}, "uncertainty": value}
    sidecar.write_text(json.dumps(record(**entries, warnings=value)))
    row = row_of(sidecar, tmp_path, 0)
    assert row.acceleration is row.residual is row.psnr is row.flagged is None
    assert [str(one) for one in (value if isinstance(value, list) else [])] == row.warnings


def test_broken_and_foreign_files_are_left_out_by_name(tmp_path):
    write_many(tmp_path, 3)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "dataset_description.json").write_text("{}")
    content = write_index(tmp_path).read_bytes().decode()
    assert len(cells(content.encode())) == 3
    left = content.split('class="left-out"')[1]
    assert "Left out: 3 JSON files" in left
    assert "<li>broken.json</li>" in left and "<li>deep.json</li>" in left and "foreign" in left
    assert "dataset_description" not in left


@pytest.mark.parametrize("fmt", ["nifti", "dicom", "h5", "frames"])
def test_the_thumbnail_is_the_middle_slice(tmp_path, fmt):
    import base64
    import io

    from PIL import Image

    volume = np.zeros((5, 40, 30), np.float32)
    volume[2, 5:20, 10:20] = 1.0  # only here
    if fmt == "frames":
        write_volume(tmp_path, "a", np.stack([volume, 0 * volume]), record(frames=2), spacing=(1.0, 1.0, 1.0))
    else:
        write_volume(tmp_path, "a", volume, record(), spacing=(1.0, 1.0, 1.0), fmt=fmt, affine=np.eye(4))
    row = row_of(tmp_path / "a.json", tmp_path, 3000)
    assert row.picture[1:] == (30, 40)
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(row.picture[0].split(",")[1]))).convert("L"))
    assert np.abs(seen / 255.0 - volume[2]).mean() < 0.05  # compressed with loss


def test_the_thumbnails_of_thousands_stay_small(tmp_path, monkeypatch):
    write_volume(tmp_path, "a", np.random.default_rng(0).random((1, 200, 180)).astype(np.float32), record())
    sizes = []
    for most in (20_000, 3_000, 1_500, 800, 100):
        picture = row_of(tmp_path / "a.json", tmp_path, most).picture
        assert picture is None or len(picture[0]) <= most
        sizes.append(0 if picture is None else picture[2])
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[2] and sizes[-1] == 0
    row = row_of(tmp_path / "a.json", tmp_path, 1500)  # the share of each of 2000
    assert len(index_page("many", [row] * 2000)) < 6_000_000


def test_images_outside_the_folder_are_not_read(tmp_path):
    inner = tmp_path / "inner"
    inner.mkdir()
    write_volume(tmp_path, "secret", np.ones((1, 8, 8), np.float32), record())
    for name in ("../secret.nii.gz", str(tmp_path / "secret.nii.gz"), "missing.nii.gz", ""):
        sidecar = write_sidecar(inner, "a", files=[name])
        assert row_of(sidecar, inner, 10_000).picture is None
    (inner / "a.nii.gz").write_bytes(b"not an image")
    assert row_of(write_sidecar(inner, "a", files=["a.nii.gz"]), inner, 10_000).picture is None


def test_only_an_overview_is_replaced_without_being_asked(tmp_path):
    write_sidecar(tmp_path, "a")
    assert write_index(tmp_path) == tmp_path / NAME
    write_index(tmp_path)
    (tmp_path / NAME).write_text("mine")
    with pytest.raises(InputError, match="is not an overview"):
        write_index(tmp_path)
    assert (tmp_path / NAME).read_text() == "mine"
    write_index(tmp_path, overwrite=True)
    assert (tmp_path / NAME).read_text() != "mine"
    write_sidecar(tmp_path, "index")
    with pytest.raises(InputError, match="rename that image"):
        write_index(tmp_path, overwrite=True)


def test_the_command(tmp_path, capsys):
    write_many(tmp_path, 3)
    assert main(["report", "--index", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "index", "status": "done", "file": NAME}]
    assert main(["report", "--index", str(tmp_path), "--scan", "x.h5"]) == 2
    assert "--scan is for pages" in capsys.readouterr().err
    assert main(["report", "--index", str(tmp_path / "none")]) == 2
    assert sorted(path.name for path in Path(tmp_path).glob("*.html")) == ["case 0001.html", "case 0002.html", NAME]


def test_scores_of_pages_with_a_reference_are_in_the_overview(tmp_path):
    """The image is the reference plus 0.1 everywhere: the PSNR is 20 dB for a largest value of 1."""
    truth = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    truth[0, 0, 0] = 1.0
    write_volume(tmp_path / "ref", "truth", truth, record())
    write_volume(tmp_path / "out", "a", truth + np.float32(0.1), record(samples=1))
    reference = str(tmp_path / "ref" / "truth.nii.gz")
    assert main(["report", str(tmp_path / "out"), "--reference", reference]) == 0
    (row,) = cells(write_index(tmp_path / "out").read_bytes())
    assert '<a href="a.html">a</a>' in row and "20.00" in row
