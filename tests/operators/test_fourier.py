"""The centred Fourier transform."""

import numpy as np
import pytest
import torch

from medrecon.operators.fourier import centring, fft, ifft

from ..make.compare import assert_close
from ..make.operators import random_tensor


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (5, 8), (1, 3)])
def test_centring_folds_the_shifts(shape):
    x = random_tensor(2, *shape)
    image, kspace = centring(shape, torch.complex128)
    assert_close(kspace * torch.fft.fftn(image * x, dim=(-2, -1), norm="ortho"), fft(x, (-2, -1)), 1e-12)
    assert_close(ifft(fft(x, (-2, -1)), (-2, -1)), x, 1e-12)


@pytest.mark.parametrize("n", [7, 8])
def test_fft_is_the_centred_dft(n):
    k = np.arange(n) - n // 2
    matrix = torch.from_numpy(np.exp(-2j * np.pi * np.outer(k, k) / n) / np.sqrt(n))
    x = random_tensor(3, n)
    assert_close(fft(x, (-1,)), x @ matrix.T, 1e-12)
