"""FreeSurfer's images: values, place, volumes, and what is refused."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medrecon.data.errors import InputError, SelectionError
from medrecon.formats import Companions, load

AFFINE = np.array([[0, 0, 2.0, -10], [-1.5, 0, 0, 20], [0, -1.25, 0, 3], [0, 0, 0, 1]])


def saved(path, data):
    plain = path.with_name("plain.mgh")
    nib.save(nib.freesurfer.MGHImage(data, AFFINE), plain)
    content = plain.read_bytes()
    plain.unlink()
    path.write_bytes(content if path.suffix == ".mgh" else gzip.compress(content))
    return path


@pytest.mark.parametrize("name", ["a.mgz", "a.mgh", "a.mgh.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_values_and_place(tmp_path, name, dtype):
    data = (100 * np.random.default_rng(0).random((7, 9, 5))).astype(dtype)
    scan = load(saved(tmp_path / name, data))
    assert scan.format == "FreeSurfer" and np.array_equal(scan.array, data.transpose(2, 1, 0).astype(np.float32))
    assert np.allclose(scan.affine, AFFINE, atol=1e-5) and np.allclose(scan.spacing, (2.0, 1.25, 1.5))


def test_one_of_several_volumes(tmp_path):
    data = np.random.default_rng(0).random((7, 9, 5, 3)).astype(np.float32)
    path = saved(tmp_path / "a.mgz", data)
    scan = load(path, {"volume": 1})
    assert np.array_equal(scan.array, data[..., 1].transpose(2, 1, 0)) and scan.attributes == {
        "volume": 1,
        "volumes": 3,
    }
    with pytest.raises(SelectionError, match=r"a\.mgz: a file of 3 volumes; select one, e.g. volume=0"):
        load(path)
    with pytest.raises(InputError, match="no volume=3"):
        load(path, {"volume": 3})
    with pytest.raises(InputError, match="by volume only, not by EchoTime"):
        load(path, {"EchoTime": 3})
    with pytest.raises(InputError, match="is supported for NIfTI only"):
        load(path, {"volume": 0}, companions=Companions(phase=path))


def test_without_its_flag_directions_are_not_believed(tmp_path):
    path = saved(tmp_path / "a.mgh", np.ones((4, 5, 6), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:28] + b"\0\0" + content[30:])
    assert load(path).affine is None


def test_what_cannot_be_read(tmp_path):
    path = saved(tmp_path / "a.mgh", np.ones((4, 5, 6), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:300])
    with pytest.raises(InputError, match=r"a\.mgh: its header says 4 x 5 x 6 voxels, but the file has 300 bytes"):
        load(path)
    path.write_bytes(content[:284] + b"\xff" * 480)
    with pytest.raises(InputError, match="contains NaN or Inf"):
        load(path)


def test_a_damaged_bit_is_seen_by_the_checksum(tmp_path):
    path = saved(tmp_path / "a.mgz", np.random.default_rng(0).integers(0, 200, (20, 20, 20)).astype(np.uint8))
    content = path.read_bytes()
    for at in range(400, len(content) - 8, 977):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(InputError, match=r"a\.mgz: not a readable FreeSurfer image"):
            load(path)


def test_what_a_file_is_called_does_not_decide_whether_it_is_packed(tmp_path):
    data = np.ones((4, 5, 6), np.float32)
    plain, packed = saved(tmp_path / "a.mgh", data).read_bytes(), saved(tmp_path / "a.mgz", data).read_bytes()
    (tmp_path / "b.mgz").write_bytes(plain)
    (tmp_path / "b.mgh").write_bytes(packed)
    assert all(np.array_equal(load(tmp_path / name).array, data.T) for name in ("b.mgz", "b.mgh"))


def test_a_file_by_others_is_as_nibabel_reads_it():
    path = Path(nib.__file__).parent / "tests" / "data" / "test.mgz"
    if not path.is_file():
        pytest.skip("nibabel came without its test data")
    expected, scan = nib.load(path), load(path, {"volume": 0})
    assert np.array_equal(scan.array, np.asarray(expected.dataobj)[..., 0].transpose(2, 1, 0))
    assert np.allclose(scan.affine, expected.affine)
