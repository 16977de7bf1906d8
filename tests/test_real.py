"""The real slice, end to end, as the README promises; minutes, so marked slow."""

import json

import numpy as np
import pytest

from medrecon.cli import main
from medrecon.data.espirit import combined_reference
from medrecon.formats import load_kspace


@pytest.mark.slow
def test_reference_equals_sigpys(data_folder):
    from sigpy.mri.app import EspiritCalib

    k = load_kspace(data_folder / "kspace" / "brain_t1_8ch_sliceA.h5").kspace
    maps = EspiritCalib(k[0], calib_width=24, crop=0.9, show_pbar=False).run()
    coils = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k[0], axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    theirs = np.abs((maps.conj() * coils).sum(0))
    ours = combined_reference(k)[0]
    # Where an eigenvalue lies at the crop, a pixel may be in one and not in the other.
    same = (ours > 0) == (theirs > 0)
    assert same.mean() > 0.999
    assert np.abs(ours - theirs)[same].max() < 1e-3 * theirs.max()


@pytest.mark.slow
@pytest.mark.parametrize(("accel", "acs", "psnr", "ssim"), [(4, 24, 31.7, 0.866), (8, 14, 25.9, 0.727)])
def test_default_on_the_real_slice(data_folder, tmp_path, capsys, accel, acs, psnr, ssim):
    """The default must beat what a plain DDS reached with the stand-in prior."""
    full, under = data_folder / "kspace" / "brain_t1_8ch_sliceA.h5", tmp_path / "u.h5"
    assert main(["undersample", str(full), "-o", str(under), "--accel", str(accel), "--acs", str(acs)]) == 0
    assert main(["recon", str(under), "-o", str(tmp_path / "o")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "o" / "u.nii.gz"), "--reference", str(full), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["psnr"] > psnr
    assert found["ssim"] > ssim
    assert json.loads((tmp_path / "o" / "u.json").read_text())["network_evaluations"] <= 50


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brain_gre_16ch_96.h5", "brain_t1_8ch_sliceA.cfl"])
def test_other_real_files_run(data_folder, tmp_path, name):
    full, under = data_folder / "kspace" / name, tmp_path / "u.h5"
    assert (
        main(["undersample", str(full), "-o", str(under), "--accel", "3", "--acs", "16", "--kind", "gaussian2d"]) == 0
    )
    assert main(["recon", str(under), "-o", str(tmp_path / "o"), "--steps", "10", "--format", "h5"]) == 0
    assert (tmp_path / "o" / "u.h5").is_file()
