"""Wavelets against PyWavelets."""

import numpy as np
import pytest
import pywt
import torch

from medrecon.operators.wavelet import Wavelet


@pytest.mark.parametrize("shape", [(32, 32), (46, 40), (31, 33), (17, 20)])
@pytest.mark.parametrize("name", ["haar", "db4", "sym5"])
def test_wavelet_is_pywavelets_with_zero_boundary(shape, name):
    x = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    W = Wavelet(shape, name)
    bands = W.analysis(x)
    theirs = pywt.wavedecn(x[1, 0].numpy(), name, mode="zero")
    assert len(bands) == len(theirs)
    assert np.allclose(bands[0][1, 0, 0].numpy(), theirs[0], atol=1e-10)
    for ours, details in zip(bands[1:], theirs[1:], strict=True):
        for k, key in enumerate(("ad", "da", "dd")):
            assert np.allclose(ours[1, k, 0].numpy(), details[key], atol=1e-10)


@pytest.mark.parametrize("shape", [(17,), (31, 33), (9, 12, 10)])
def test_wavelet_is_an_isometry_whose_adjoint_inverts_it(shape):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, *shape, generator=generator, dtype=torch.float64)
    W = Wavelet(shape, "db2")
    bands = W.analysis(x)
    assert torch.allclose(W.synthesis(bands), x, atol=1e-11)
    v = [torch.randn(band.shape, generator=generator, dtype=torch.float64) for band in bands]
    left = sum((a * b).sum() for a, b in zip(bands, v, strict=True))
    assert torch.allclose(left, (x * W.synthesis(v)).sum(), rtol=1e-10)
    assert torch.allclose(sum(b.square().sum() for b in bands), x.square().sum(), rtol=1e-10)


def test_wavelet_must_be_orthogonal():
    with pytest.raises(ValueError, match="orthogonal"):
        Wavelet((8, 8), "bior2.2")
