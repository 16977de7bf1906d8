"""What counts as measured: masks against k-space, padding, and slices and coils that were sampled otherwise than others."""

import json

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest
import torch

import medrecon
from medrecon.cli import main
from medrecon.data.errors import InputError
from medrecon.data.phantom import loop_coils
from medrecon.data.sampling import check_mask
from medrecon.formats import load_kspace
from medrecon.prep import LoadPreparedd, load_manifest, load_recipe, prepare
from medrecon.transforms import (
    CompressCoils,
    EstimateSensitivityMapsd,
    LoadKSpaced,
    ToCartesianScand,
    UndersampleKSpaced,
)
from tests.make.ismrmrd import header, line, write


def stored(path, **more):
    """The k-space and mask of a file."""
    with h5py.File(path) as file:
        return file["kspace"][()], file["mask"][()]


def save(path, kspace, mask=None, **attributes):
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask
        file.attrs.update(attributes)
    return path


def recon(path, out, *more):
    """The image that the command line makes, and its sidecar."""
    code = main(["recon", str(path), "-o", str(out), "--solver", "cg-sense", *map(str, more)])
    assert code == 0
    image = np.asarray(nib.load(out / f"{path.stem}.nii.gz").dataobj).transpose(2, 1, 0)
    return image, json.loads((out / f"{path.stem}.json").read_text())


def refused(capsys, *arguments, words):
    assert main([str(a) for a in arguments]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    errors = [text for text in printed if "error" in text]
    assert len(errors) == 1, printed
    for word in words:
        assert word in errors[0], errors[0]


# A mask against its k-space


def test_a_stored_mask_that_claims_too_much_changes_no_image(scan, tmp_path):
    """Zeros that were never measured are not data, whatever the mask says: the image is that of the right mask, bit for bit."""
    path, _ = scan()
    kspace, mask = stored(path)
    right, _ = recon(path, tmp_path / "right")
    image, record = recon(save(tmp_path / "ones.h5", kspace, np.ones(36, bool)), tmp_path / "o")
    assert np.array_equal(image, right)
    absent = 40 * int((~mask[np.argmax(mask) : 36 - np.argmax(mask[::-1])]).sum())
    assert any(f"{absent} samples in the mask are zero" in text for text in record["warnings"])
    np.savez(tmp_path / "ones.npz", kspace=kspace[0], mask=np.ones((40, 36)))
    assert np.array_equal(recon(tmp_path / "ones.npz", tmp_path / "n")[0], right)
    loaded = LoadKSpaced("image")({"image": tmp_path / "ones.h5"})
    assert np.array_equal(loaded["mask"].numpy(), mask[None])
    assert any("count as not measured" in text for text in loaded["image"].meta["warnings"])
    (tmp_path / "in").mkdir()
    (tmp_path / "ones.h5").rename(tmp_path / "in" / "ones.h5")
    assert prepare(tmp_path / "in", tmp_path / "out", load_recipe("kspace")).prepared == 1
    case = LoadPreparedd(["kspace", "mask"])(row := load_manifest(tmp_path / "out")[0])
    assert np.array_equal(case["mask"].numpy(), mask[None])
    assert f"ones.h5: {absent} samples in the mask are zero; they count as not measured" in row["warnings"]
    assert case["kspace"].meta["warnings"] == row["arrays"]["kspace"]["meta"]["warnings"]


def test_a_given_mask_that_claims_too_much_is_refused_everywhere(scan, tmp_path, capsys):
    path, _ = scan()
    kspace, _ = stored(path)
    ones = np.ones(36, bool)
    np.save(tmp_path / "ones.npy", ones)
    words = ["ones.npy", "the mask has", "samples", "that are zero"]
    refused(capsys, "recon", path, "-o", tmp_path / "o", "--mask", tmp_path / "ones.npy", words=words)
    assert not (tmp_path / "o").exists()
    with pytest.raises(InputError, match="the mask has"):
        medrecon.reconstruct(kspace, ones, solver="cg-sense")
    loaded = LoadKSpaced("image")({"image": path})
    loaded["mask"] = torch.ones(1, 36, dtype=torch.bool)
    for transform in (EstimateSensitivityMapsd("image"), lambda d: CompressCoils(2)(d["image"], d["mask"])):
        with pytest.raises(InputError, match=r"scan\.h5: the mask has"):
            transform(loaded)
    with pytest.raises(InputError, match="the mask has"):
        ToCartesianScand("image")(loaded)


def test_padding_is_not_measured(scan, tmp_path):
    """FastMRI's: columns of zeros (or of rounding) at both sides, under a mask that is true there."""
    path, _ = scan()
    kspace, mask = stored(path)
    padded = np.pad(kspace, ((0, 0), (0, 0), (0, 0), (5, 4)))
    right, _ = recon(save(tmp_path / "inferred.h5", padded), tmp_path / "right")
    wide = np.pad(mask, (5, 4), constant_values=True)
    image, record = recon(save(tmp_path / "true.h5", padded, wide), tmp_path / "t")
    assert np.array_equal(image, right)
    assert record["warnings"] == []  # fastMRI's masks are so
    rounded = padded + np.where(padded == 0, 1e-9 * np.abs(padded).max(), 0).astype(np.complex64) * wide
    attributes = {"padding_left": 5, "padding_right": 41}
    image, record = recon(save(tmp_path / "rounded.h5", rounded, wide, **attributes), tmp_path / "r")
    assert np.array_equal(image, right)
    assert record["warnings"] == []
    assert load_kspace(tmp_path / "rounded.h5").mask.tolist() == np.pad(mask, (5, 4)).tolist()


@pytest.mark.parametrize(("left", "right"), [(5, 60), (-1, 30), (20, 10), (6, 36), ("5", 30), (0.5, np.nan)])
def test_padding_that_contradicts_k_space_is_not_used(scan, tmp_path, left, right):
    """Of a file that was cropped, say: measured columns are no padding."""
    path, _ = scan(full=True)
    kspace, mask = stored(path)
    loaded = load_kspace(save(tmp_path / "odd.h5", kspace, mask, padding_left=left, padding_right=right))
    assert loaded.mask.all()
    assert np.array_equal(loaded.kspace, kspace)
    assert any("padding_left" in text and "ignored" in text for text in loaded.warnings)


def test_undersampling_leaves_padding_out(scan, tmp_path, capsys):
    path, _ = scan(full=True)
    kspace, _ = stored(path)
    padded = np.pad(kspace, ((0, 0), (0, 0), (0, 0), (5, 4)))
    save(tmp_path / "padded.h5", padded, np.ones(45, bool), padding_left=5, padding_right=41)
    assert main(["undersample", str(tmp_path / "padded.h5"), "-o", str(tmp_path / "few.h5"), "--acs", "8"]) == 0
    _, mask = stored(tmp_path / "few.h5")
    measured = (stored(tmp_path / "few.h5")[0] != 0).any(axis=(0, 1, 2))
    assert np.array_equal(mask, measured)
    assert f"acceleration {45 / measured.sum():.3f}" in capsys.readouterr().out
    loaded = LoadKSpaced("image")({"image": tmp_path / "padded.h5"})
    few = UndersampleKSpaced("image", accel=3, acs=8)(loaded)
    assert np.array_equal(few["mask"][0].numpy(), (few["image"].numpy() != 0).any(axis=(0, 1, 2)))


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.full(36, 0.3), "contains 0.3"),
        (np.where(np.arange(36) % 2, 1.0, np.nan), "contains nan"),
        (np.where(np.arange(36) % 2, np.inf, 0), "contains inf"),
        (255 * (np.arange(36) % 2).astype(np.uint8), "contains 255"),
        (np.full(36, 1 + 1j), "1 where k-space was measured"),
        (np.full(36, "yes"), "not numbers"),
        (np.arange(2 * 40 * 36).reshape(2, 40, 36) % 2 == np.arange(2)[:, None, None], "differs between slices"),
        (np.ones((3, 40, 35)), "has shape"),
        (np.zeros(36), "0 everywhere"),
    ],
)
def test_what_is_no_mask(mask, words):
    with pytest.raises(InputError, match=words) as caught:
        check_mask(mask, (40, 36), "mask.npy")
    assert str(caught.value).startswith("mask.npy: ")


def test_masks_of_any_numbers_and_of_many_alike_slices():
    columns = np.arange(36) % 3 == 0
    for kind in (bool, np.uint8, np.float64, np.complex64):
        assert np.array_equal(check_mask(columns.astype(kind), (40, 36), "m"), columns)
        assert np.array_equal(check_mask(np.broadcast_to(columns, (2, 4, 40, 36)).astype(kind), (40, 36), "m"), columns)
        assert np.array_equal(check_mask(np.broadcast_to(columns, (2, 1, 36)).astype(kind), (40, 36), "m"), columns)


def test_a_mask_may_leave_out_what_was_measured(scan, tmp_path):
    """Undersampling afterwards, in a file or by --mask."""
    path, _ = scan(full=True)
    kspace, _ = stored(path)
    few = stored(scan(name="few.h5")[0])[1]
    expected = medrecon.reconstruct(kspace * few, few, solver="cg-sense").image
    assert np.array_equal(recon(save(tmp_path / "s.h5", kspace, few), tmp_path / "s")[0], expected)
    np.save(tmp_path / "few.npy", few)
    assert np.array_equal(recon(path, tmp_path / "g", "--mask", tmp_path / "few.npy")[0], expected)


def test_zeros_that_were_measured_are_no_fault(scan, tmp_path):
    """A converter's whole numbers, of which quiet ones are 0, and a sample that was lost."""
    path, _ = scan(coils=1, full=True)
    kspace, mask = stored(path)
    whole = np.round(kspace / 0.05)
    zeros = (whole == 0).mean()
    assert 0.05 < zeros < 0.5
    loaded = load_kspace(save(tmp_path / "whole.h5", whole.astype(np.complex64), mask))
    assert loaded.warnings == ()
    assert recon(tmp_path / "whole.h5", tmp_path / "o")[1]["warnings"] == []
    lost = kspace.copy()
    lost[0, 0, 7, 9] = 0
    assert load_kspace(save(tmp_path / "lost.h5", lost, mask)).warnings == ()
    np.save(tmp_path / "ones.npy", np.ones(36, bool))
    recon(tmp_path / "lost.h5", tmp_path / "l", "--mask", tmp_path / "ones.npy")
    assert main(["undersample", str(tmp_path / "lost.h5"), "-o", str(tmp_path / "few.h5"), "--acs", "8"]) == 0


def test_rounding_in_place_of_zeros_is_reported(scan, tmp_path):
    path, _ = scan()
    kspace, _ = stored(path)
    axes = (-2, -1)
    through = np.fft.fft2(np.fft.ifft2(kspace.astype(complex), axes=axes), axes=axes).astype(np.complex64)
    assert (through != 0).all()
    loaded = load_kspace(save(tmp_path / "through.h5", through))
    assert any("round-off" in text for text in loaded.warnings)
    assert load_kspace(path).warnings == ()
    # With the mask, as the sentence advises, the rounding is no data.
    assert load_kspace(save(tmp_path / "masked.h5", through, stored(path)[1])).warnings == ()


# Slices and coils that were sampled otherwise than others


@pytest.fixture
def interleaved(scan, tmp_path):
    """Three slices; the odd one was sampled at other columns: path, and k-space."""
    path, _ = scan(slices=3, full=True)
    kspace, _ = stored(path)
    centre = np.abs(np.arange(36) - 18) < 6
    even, odd = centre | (np.arange(36) % 2 == 0), centre | (np.arange(36) % 2 == 1)
    kspace = kspace * np.stack([even, odd, even])[:, None, None]
    return save(tmp_path / "interleaved.h5", kspace, even | odd), kspace


def test_slices_sampled_otherwise_are_not_taken_for_whole(interleaved, tmp_path):
    path, kspace = interleaved
    words = (
        "slice 0 lacks 480 of the 1440 samples that other slices have; every slice is reconstructed with its own mask"
    )
    assert any(words in text for text in load_kspace(path).warnings)
    every, record = recon(path, tmp_path / "o", "--noise-std", 0.01)
    assert any("its own mask" in text for text in record["warnings"])
    # Alone or with the others, the image is that of a file which holds this slice alone.
    alone = medrecon.reconstruct(kspace[1:2], solver="cg-sense", noise_std=0.01).image
    image, record = recon(path, tmp_path / "s", "--slices", "1:2", "--noise-std", 0.01)
    assert np.array_equal(image, alone)
    assert np.allclose(every[1], alone[0], atol=1e-5 * alone.max())
    assert record["acceleration"] == pytest.approx(36 / (kspace[1, 0, 0] != 0).sum(), abs=1e-3)


def test_slices_sampled_otherwise_stop_bundle_prep_and_undersampling(interleaved, tmp_path, capsys):
    path, kspace = interleaved
    with pytest.raises(InputError, match=r"interleaved\.h5: slice 0 lacks"):
        LoadKSpaced("image")({"image": path})
    refused(capsys, "undersample", path, "-o", tmp_path / "few.h5", "--acs", 8, words=["undersampled already"])
    with pytest.raises(InputError, match="undersampled already"):
        UndersampleKSpaced("image")({"image": torch.from_numpy(kspace)})
    with pytest.raises(InputError, match="slice 0 lacks"):
        EstimateSensitivityMapsd("image")({"image": torch.from_numpy(kspace)})
    with pytest.raises(InputError, match="slice 0 lacks"):
        ToCartesianScand("image")({"image": torch.from_numpy(kspace)})
    source = tmp_path / "in"
    source.mkdir()
    path.rename(source / path.name)
    report = prepare(source, tmp_path / "out", load_recipe("kspace"))
    assert report.prepared == 0
    assert "slice 0 lacks" in report.failed[0]["error"]


def test_points_that_change_from_frame_to_frame(scan, tmp_path):
    path, _ = scan(slices=2, full=True)
    kspace, _ = stored(path)
    kspace = kspace * (np.random.default_rng(0).random((2, 1, 40, 36)) < 0.9)
    assert any("slice 0 lacks" in text for text in load_kspace(save(tmp_path / "frames.h5", kspace)).warnings)


def test_a_coil_that_lost_lines(scan, tmp_path, capsys):
    path, _ = scan()
    kspace, mask = stored(path)
    kspace[0, 2, :, np.flatnonzero(mask)[3:5]] = 0
    words = ["coil 2 of slice 0 lacks 80", "without that coil"]
    save(tmp_path / "lost.h5", kspace, mask)
    for more in ([], ["--compress", 2]):
        refused(capsys, "recon", tmp_path / "lost.h5", "-o", tmp_path / "o", *more, words=words)


def test_empty_slices_and_dead_coils_are_no_fault(scan, tmp_path):
    path, _ = scan(slices=2)
    kspace, mask = stored(path)
    kspace[1] = 0
    kspace[0, 2] = 0
    assert load_kspace(save(tmp_path / "empty.h5", kspace, mask)).warnings == ()
    image, _ = recon(tmp_path / "empty.h5", tmp_path / "o")
    assert image[0].any()
    assert not image[1].any()


def test_a_map_of_a_dead_coil_is_not_used(scan):
    """Its zeros are no data: the image is that of maps which are zero there."""
    path, truth = scan(noise=0.001)
    kspace, mask = stored(path)
    maps = loop_coils((40, 36), 4)
    kspace[:, 2] = 0
    zero = maps * (np.arange(4) != 2)[:, None, None]
    one, other = (medrecon.reconstruct(kspace, mask, m, solver="cg-sense") for m in (maps, zero))
    scale = [np.vdot(r.image, truth) / np.vdot(r.image, r.image) for r in (one, other)]
    assert np.allclose(scale[0] * one.image, scale[1] * other.image, atol=2e-3)
    assert any("coil 2 has no samples" in text for text in one.record["warnings"])
    assert not any("coil 2" in text for text in other.record["warnings"])


def test_acquisitions_that_one_slice_lacks(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        line(
            (rng.normal(size=(3, 16)) + 1j * rng.normal(size=(3, 16))).astype(np.complex64),
            [ismrmrd.ACQ_LAST_IN_SLICE] if step == 9 else [],
            position=(0, 0, 5.0 * n),
            kspace_encode_step_1=step,
            slice=n,
        )
        for n in range(2)
        for step in range(10)
        if (n, step) != (1, 4)
    ]
    data = load_kspace(write(tmp_path / "a.h5", header((16, 10, 1), (160, 120, 5)), lines))
    assert any("slice 1 lacks 16 of the 160 samples" in text for text in data.warnings)
