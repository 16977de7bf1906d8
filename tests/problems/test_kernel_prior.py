"""The shipped prior of blur kernels: its file, and what it does."""

import shutil

import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.problems import kernel_prior as module
from medrecon.training.kernels import blur_kernels


def unit(k):
    return k / k.amax((1, 2, 3), keepdim=True)


@pytest.mark.parametrize("kind", ["motion", "defocus"])
def test_it_removes_most_of_the_noise_of_kernels_it_has_not_seen(kind):
    """Noise of 0.1 on kernels with a largest value of 1: printed by benchmarks/blur_kernels.py, 0.02 remains."""
    clean = unit(blur_kernels(range(3_000_000, 3_000_008), kind))
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    found = module.kernel_prior()(clean + 0.1 * noise, 0.1)
    assert float((found - clean).square().mean().sqrt()) < 0.035


def test_the_file_is_small_and_checked(tmp_path, monkeypatch):
    assert module.WEIGHTS.stat().st_size < 1_000_000
    copy = tmp_path / "blur_kernels.pt"
    shutil.copy(module.WEIGHTS, copy)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(bytes(content))
    monkeypatch.setattr(module, "WEIGHTS", copy)
    module._network.cache_clear()
    with pytest.raises(InputError, match="SHA-256"):
        module.kernel_prior()
    module._network.cache_clear()
