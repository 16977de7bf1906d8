"""Errors and warnings as their reader gets them: the diagnosis is true, and following the advice leads to the right image."""

import errno
import os
import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest

from medrecon import InputError
from medrecon.cli import main
from medrecon.data.coils import compress_coils, from_kspace
from medrecon.data.errors import NotCartesianError
from medrecon.data.phantom import loop_coils, simulate_kspace
from medrecon.data.sampling import one_sided_warnings, sampling_mask
from medrecon.data.scan import Geometry
from medrecon.formats import load_array, load_kspace, load_noncartesian
from medrecon.formats.dicom import read_dicom
from medrecon.writers.mrd import mrd_bytes
from tests.make.ismrmrd import header, line, write

RNG = np.random.default_rng(5)


def noise(*shape):
    return (RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)).astype(np.complex64)


def said(read, *args):
    with pytest.raises(InputError) as caught:
        read(*args)
    return str(caught.value)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


# What a file holds instead


def others(folder):
    """Files without k-space, and words that name what they hold and what takes it."""
    k = noise(2, 3, 8, 6)
    (folder / "image.mrd").write_bytes(mrd_bytes(np.abs(k[0]), Geometry((1.0, 1.0, 1.0))))
    shard = h5(folder / "train-00000.h5", **{"a/image": np.abs(k)})
    with h5py.File(shard, "a") as file:
        file["a"].attrs["row"] = "{}"
    acquisition = np.zeros(2, [("head", "i4"), ("data", "f4")])
    return {
        npz(folder / "ct.npz", sino=np.ones((5, 4)), theta_rad=np.ones(5)): ["CT sinogram", "chest_ct", "LoadSinogram"],
        h5(folder / "ct.h5", **{"exchange/data": np.ones((5, 1, 4))}): ["CT sinogram", "chest_ct"],
        npz(folder / "img.npz", img=np.ones((5, 4))): ["holds an image", "SimulateKSpace"],
        h5(folder / "own.h5", reconstruction=np.ones((1, 5, 4))): [
            "reconstructed image",
            "give its raw data",
        ],
        folder / "image.mrd": ["reconstructed MRD images"],
        shard: ["medrecon prep", "LoadPreparedd"],
        npz(folder / "maps.npz", maps=k[0]): ["coil maps", "--maps"],
        npz(folder / "mask.npz", mask=np.ones(6)): ["sampling mask", "--mask"],
        h5(folder / "bare.h5", data=acquisition): ["acquisitions without their XML header"],
        npz(folder / "renamed.npz", data=k, note=np.ones(3)): ["if 'data' is k-space, rename it to 'kspace'"],
        npz(folder / "none.npz", number=np.ones(3)): ["nor one that may be k-space"],
    }


def test_a_file_without_k_space_is_named_for_what_it_holds(tmp_path):
    for path, words in others(tmp_path).items():
        text = said(load_kspace, path)
        assert str(path) in text
        assert all(word in text for word in words), text
        assert "fastMRI layout" not in text
        if "renamed" not in path.name:
            assert "rename" not in text, text
    assert "holds k-space, not coil maps" in said(load_array, npz(tmp_path / "k.npz", kspace=noise(3, 8, 6)), "maps")
    assert "if 'own' is the sampling mask" in said(load_array, npz(tmp_path / "m.npz", own=np.ones((8, 6))), "mask")


def test_an_npz_with_a_trajectory_is_never_read_as_cartesian(tmp_path, capsys):
    points = np.stack(np.meshgrid(np.arange(-4.0, 4), np.arange(-4.0, 4), indexing="ij"), -1)
    path = npz(tmp_path / "a.npz", kspace=noise(2, 8, 8), trajectory=points)
    with pytest.raises(NotCartesianError, match="holds a trajectory"):
        load_kspace(path)
    assert load_noncartesian(path).samples.shape == (1, 2, 8, 8)
    assert main(["info", str(path)]) == 0  # shown for what it is
    assert "shots: 8" in capsys.readouterr().out


# BART


def write_cfl(path, array):
    array.astype("<c8").tofile(path.with_suffix(".cfl"))
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, array.shape[::-1])) + "\n")
    return path.with_suffix(".cfl")


def followed(text, path):
    """The pair that the commands of an error make."""
    if shutil.which("bart") is None:
        pytest.skip("bart is not installed")
    commands = re.findall(r"'(bart [^']*)'", text)
    assert commands
    for command in commands:
        words = command.replace("IN", str(path.with_suffix(""))).split()
        subprocess.run(words, cwd=path.parent, check=True, capture_output=True)
    return path.with_name("OUT.cfl")


@pytest.mark.parametrize("kz", ["whole", "undersampled"])
def test_bart_volumes_become_slices_of_the_object(tmp_path, kz):
    k = noise(3, 6, 8, 10)  # coils, z, y, x
    if kz == "undersampled":
        k[:, 1::2, ::2] = 0
    path = write_cfl(tmp_path / "k", k)
    text = said(load_kspace, path)
    assert "bart slice" not in text  # along kz that is no slice of the object
    data = load_kspace(followed(text, path))
    volume = from_kspace(k, (-3, -2, -1))
    # Slices along z with rows y and columns x, or along x with rows y and columns z: transformed as the reader's own slices are.
    truth = volume.transpose(1, 0, 2, 3) if kz == "whole" else volume.transpose(3, 0, 2, 1)
    found = from_kspace(data.kspace)
    assert np.abs(found - truth).max() < 1e-5 * np.abs(truth).max()  # single precision


def test_bart_without_a_whole_axis_has_no_slices(tmp_path):
    k = noise(3, 6, 8, 10)
    k[:, ::2, 1::2, ::3] = 0
    assert "neither x nor z is fully sampled" in said(load_kspace, write_cfl(tmp_path / "k", k))


def test_bart_frames_averages_and_maps(tmp_path):
    def axes(**sizes):
        shape = [1] * 16
        for name, n in {"x": 6, "y": 8, "coils": 3, **sizes}.items():
            shape[{"x": 0, "y": 1, "coils": 3, "maps": 4, "coefficients": 6, "time": 10, "averages": 14}[name]] = n
        return noise(*shape[::-1])

    time, path = axes(time=4), tmp_path / "t.cfl"
    text = said(load_kspace, write_cfl(path, time))
    assert "'bart slice 10 0 IN OUT'" in text
    assert np.array_equal(load_kspace(followed(text, path)).kspace[0], time.squeeze()[0])
    averages, path = axes(averages=2), tmp_path / "a.cfl"
    text = said(load_kspace, write_cfl(path, averages))
    mean = averages.squeeze().mean(axis=0)
    assert np.allclose(load_kspace(followed(text, path)).kspace[0], mean, atol=1e-6)
    maps = write_cfl(tmp_path / "m", axes(maps=2))
    assert "seem to be coil maps" in said(load_kspace, maps)
    assert "bart slice 4 0" in said(load_array, maps, "maps")
    assert "bart slice" not in said(load_kspace, write_cfl(tmp_path / "c", axes(coefficients=4)))


# Files that the system refuses


def test_what_is_not_a_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5")
    os.symlink(tmp_path / "gone", tmp_path / "link.h5")
    for suffix in ("h5", "npz", "npy", "mat", "dat"):
        (tmp_path / f"empty.{suffix}").touch()
        assert "is empty" in said(load_kspace, tmp_path / f"empty.{suffix}")
    assert "is a pipe or device" in said(load_kspace, tmp_path / "pipe.h5")
    assert "a link to a file that does not exist" in said(load_kspace, tmp_path / "link.h5")
    assert said(load_kspace, tmp_path / "none.h5").endswith("none.h5: no such file")


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.EACCES, "check its permissions"), (errno.EIO, "check the disk"), (errno.ENOENT, "check the path")],
)
def test_permissions_are_advised_for_refused_files_only(tmp_path, monkeypatch, number, advice):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM")
    damaged = said(read_dicom, [tmp_path / "a.dcm"])
    assert "damaged" in damaged
    assert "check its permissions" not in damaged

    def refuse(*args, **more):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("medrecon.formats.dicom.series._DicomFile", refuse)
    text = said(read_dicom, [tmp_path / "a.dcm"])
    assert os.strerror(number) in text
    assert advice in text
    assert ("check its permissions" in text) == (number == errno.EACCES)


# Diagnoses that depend on the data


def test_very_quiet_whole_numbers_are_not_undersampled():
    """Noise of 0.3 rounds to 0 four times in five: more zeros than ones, and all of them were measured."""
    shape = (64, 48)
    y, x = np.mgrid[-32:32, -24:24]
    signal = 400 * np.exp(-(y**2 + x**2) / 60)
    kspace = np.rint(signal + 0.3 * (RNG.standard_normal((1, 1, *shape)) + 1j * RNG.standard_normal((1, 1, *shape))))
    kspace = kspace.astype(np.complex64)
    zero = (kspace == 0).all(axis=(0, 1))
    assert zero.sum() > 2 * (np.abs(kspace).max(axis=(0, 1)) == 1).sum()
    assert sampling_mask(kspace, np.ones(shape, bool)).any()
    # Louder noise does not round to 0, so zeros were not measured.
    loud = np.rint(10 * kspace + 9 * np.exp(2j * np.pi * RNG.random(kspace.shape))).astype(np.complex64)
    loud[..., RNG.random(shape) < 0.4] = 0
    text = said(sampling_mask, loud, np.ones(shape, bool))
    assert "samples that are zero" in text
    assert "export floating-point data" in text


def head(acs=24):
    """K-space of a smooth phantom, ``(1, 4, 64, 48)``."""
    y, x = np.mgrid[-1:1:64j, -1:1:48j]
    image = ((y**2 + x**2 < 0.7) + 0.5 * ((y - 0.2) ** 2 + x**2 < 0.1)).astype(float)
    return simulate_kspace(image, loop_coils(image.shape, 4), 0.01, np.random.default_rng(1))[None].astype(np.complex64)


def test_partial_fourier_is_no_silent_reference(tmp_path, capsys):
    full = head()
    assert one_sided_warnings(full, np.ones(48, bool), "k") == ()
    padded = full.copy()
    padded[..., :4], padded[..., -3:] = 0, 0  # zero padding, alike on both sides
    assert one_sided_warnings(padded, np.ones(48, bool), "k") == ()
    partial = full.copy()
    partial[..., 36:] = 0  # 6/8
    text = one_sided_warnings(partial, np.ones(48, bool), "k")
    assert len(text) == 1
    assert "11 columns on one side of the centre, 24 on the other" in text[0]
    path = npz(tmp_path / "p.npz", kspace=partial)
    assert main(["undersample", str(path), "-o", str(tmp_path / "u.h5"), "--acs", "8"]) == 0
    assert "partial Fourier" in capsys.readouterr().err


def test_coil_compression_names_the_file(tmp_path, capsys):
    mask = np.zeros((64, 48), bool)
    mask[:8] = True
    path = npz(tmp_path / "scan.npz", kspace=head() * mask)
    text = said(compress_coils, head() * mask, mask, 2, "svd", "scan")
    assert text.startswith("scan: coil compression needs a fully sampled centre")
    assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--compress", "2", "--solver", "zero-filled"]) == 2
    assert "scan.npz" in capsys.readouterr().err


def test_a_given_mask_answers_the_warning_of_rounding(tmp_path, capsys):
    kspace = head()
    mask = np.arange(48) % 2 == 0
    mask[18:30] = True
    rounded = np.where(mask, kspace, 1e-9 * np.abs(kspace).max())
    path = npz(tmp_path / "r.npz", kspace=rounded)
    np.save(tmp_path / "mask.npy", mask)
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "zero-filled"]
    assert main([*command, "--mask", str(tmp_path / "mask.npy")]) == 0
    assert "round-off" not in capsys.readouterr().err
    assert "round-off" in load_kspace(path).warnings[0]


def test_only_a_prior_makes_images_too_smooth(tmp_path, capsys):
    path = npz(tmp_path / "n.npz", kspace=head())
    command = ["recon", str(path), "-o", str(tmp_path / "o"), "--noise-std", "1"]
    assert main([*command, "--solver", "cg-sense"]) == 0
    err = capsys.readouterr().err
    assert "check the noise level" in err
    assert "too smooth" not in err


def cartesian(path, k):
    """ISMRMRD of ``(coils, readout, lines)``."""
    lines = [line(k[..., step], kspace_encode_step_1=step) for step in range(k.shape[-1])]
    return write(path, header((*k.shape[1:], 1), (200, 200, 5)), lines)


def test_a_saturated_receiver_is_reported(tmp_path, data_folder):
    k = head()[0]
    assert load_kspace(cartesian(tmp_path / "a.h5", k)).warnings == ()
    top = 0.6 * np.abs(k[1].real).max()
    k[1] = np.clip(k[1].real, -top, top) + 1j * np.clip(k[1].imag, -top, top)
    n = int((np.abs(k[1].real) == top).sum() + (np.abs(k[1].imag) == top).sum())
    assert n >= 4
    data = load_kspace(cartesian(tmp_path / "b.h5", k))
    assert len(data.warnings) == 1
    assert f"coil 1 has {n} samples of exactly its largest value" in data.warnings[0]
    for name in ("gre.dat", "gre_real.mrd"):
        assert not any("saturated" in text for text in load_kspace(data_folder / "kspace" / "siemens" / name).warnings)


def test_an_empty_selection_is_named(tmp_path, capsys):
    path = cartesian(tmp_path / "a.h5", head()[0])
    for name, words in (("contrast", "contrast= needs a number; choose among 0"), ("dataset", "dataset= needs a name")):
        assert main(["info", str(path), "--select", f"{name}="]) == 2
        assert words in capsys.readouterr().err


def test_padding_by_the_header_holds_no_data(tmp_path):
    """FastMRI's files without padding_left and padding_right: the limits of the header say the same."""
    xml = header((64, 48, 1), (192, 144, 5), centres=(20, 0))
    xml.encoding[0].encodingLimits.kspace_encoding_step_1.maximum = 39  # columns 4 to 43 of 48
    kspace = head()
    kspace[..., :4], kspace[..., 44:] = 1e-9, 1e-9  # rounding
    path = h5(tmp_path / "f.h5", kspace=kspace, ismrmrd_header=xml.toXML())
    data = load_kspace(path)
    assert data.mask.tolist() == [4 <= x < 44 for x in range(48)]
    kspace[..., :4] = 1  # data, so the limits are of another array
    path = h5(tmp_path / "g.h5", kspace=kspace, ismrmrd_header=xml.toXML())
    assert load_kspace(path).mask.all()


def test_a_damaged_mosaic_falls_back_to_its_copy(tmp_path, data_folder):
    source = data_folder / "dicom" / "dcm_qa_ts" / "6.dcm"
    truth = read_dicom([source]).array
    whole = source.read_bytes()
    (tmp_path / "a.dcm").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "b.dcm").write_bytes(whole)
    assert np.array_equal(read_dicom([tmp_path]).array, truth)
