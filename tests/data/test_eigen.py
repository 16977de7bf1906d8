"""The largest eigenvalues of many small matrices, against LAPACK in double precision."""

import numpy as np
import pytest
import torch

from medrecon.data.coils import from_kspace
from medrecon.data.eigen import largest_eigenpairs
from medrecon.data.espirit import _pixelwise, espirit_maps
from medrecon.data.masks import centred
from medrecon.formats import load_kspace

VALUE = 4e-6
"""Error of an eigenvalue in [0, 1]: that of a Rayleigh quotient in single precision, 16 sums of numbers below 1."""
ANGLE = 2e-4
"""Sine of the angle to the true eigenvector: the bound of the module, and as much for rounding, where the gap is above 0.02."""


def check(matrices, start, n, least):
    """Values, residuals and angles of what is returned, and that nothing of at least ``least`` is missing."""
    values, vectors = largest_eigenpairs(matrices, start, n, least)
    assert values.dtype == torch.float32 and vectors.dtype == torch.complex64
    again = largest_eigenpairs(matrices, start, n, least)
    assert torch.equal(values, again[0]) and torch.equal(vectors, again[1])
    true, basis = torch.linalg.eigh(matrices.to(torch.complex128))
    true, basis = true.flip(1)[:, : n + 1], basis.flip(2)[..., :n].mT
    found = vectors.abs().sum(-1) > 0
    assert (true[:, :n][~found] < least + VALUE).all()
    assert (values[~found] == 0).all()
    assert (values - true[:, :n])[found].abs().max() < VALUE
    wide = vectors.to(torch.complex128)
    assert (torch.linalg.vector_norm(wide, dim=-1)[found] - 1).abs().max() < 1e-5
    # An eigenvector of a degenerate eigenvalue is any vector of its space: the residual is small, whatever the gap.
    rest = torch.linalg.vector_norm(
        torch.einsum("mab,mnb->mna", matrices.to(wide.dtype), wide) - true[:, :n, None] * wide, dim=-1
    )
    assert rest[found].max() < ANGLE
    gram = torch.einsum("mna,mka->mnk", wide.conj(), wide)
    assert (gram - torch.diag_embed(found.to(gram.dtype))).abs().max() < 1e-5
    gaps = -true.diff(dim=1)
    gaps[:, 1:] = torch.minimum(gaps[:, 1:], gaps[:, :-1].clone())
    clear = found & (gaps > 0.02)
    cosine = (basis.conj() * wide).sum(-1, keepdim=True)
    away = torch.linalg.vector_norm(wide - cosine * basis, dim=-1)
    assert away[clear].max() < ANGLE
    return found


def planted(coils, m, seed=0):
    """Matrices with spectra in [0, 1] of every kind: clear, close, equal, one, zero."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 0.7, (m, coils))
    values[:, 0] = rng.uniform(0.5, 1, m)
    values[: m // 4, 1] = values[: m // 4, 0] * (1 - 10 ** rng.uniform(-8, -1, m // 4))
    values[: m // 16, 1] = values[: m // 16, 0]
    values[m // 16 : m // 8] = values[m // 16 : m // 8, :1]  # all equal
    values[-(m // 8) :, 1:] = 0
    values[-1] = 0
    basis = rng.standard_normal((m, coils, coils)) + 1j * rng.standard_normal((m, coils, coils))
    basis = np.linalg.qr(basis)[0]
    matrices = (basis * values[:, None]) @ basis.conj().swapaxes(1, 2)
    return torch.from_numpy(matrices.astype(np.complex64)), torch.from_numpy(basis.astype(np.complex64))


@pytest.mark.parametrize("coils", [2, 3, 8, 16])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("least", [0.0, 0.5, 0.8])
def test_planted_eigenvalues_of_every_kind(coils, n, least):
    matrices, basis = planted(coils, 800)
    guess = basis[..., 0] + 0.3 * basis[..., 1]
    found = check(matrices, guess, n, least)
    assert found[:, 0].any()
    # Starts that hold nothing of the first eigenvector, or nothing at all.
    check(matrices, basis[..., 1].contiguous(), n, least)
    check(matrices, torch.zeros_like(guess), n, least)
    # The scale of the matrices is free: squares of fourth powers would be no numbers.
    for f in (2.0**-40, 2.0**40):
        values = largest_eigenpairs(matrices * f, guess, n, least * f)[0] / f
        assert torch.allclose(values, largest_eigenpairs(matrices, guess, n, least)[0], rtol=0, atol=VALUE)


@pytest.mark.parametrize("name", ["brain_t1_8ch_sliceA.h5", "brain_gre_16ch_96.h5", "siemens/gre_real.mrd"])
def test_real_pixels(data_folder, name):
    """ESPIRiT's matrices of real scans, with the start that it uses: the low-resolution images."""
    kspace = load_kspace(data_folder / "kspace" / name).kspace[0]
    mask = np.zeros(kspace.shape[1:], bool)
    mask[tuple(centred(n, 24) for n in mask.shape)] = True
    start = torch.from_numpy(from_kspace(kspace * mask).astype(np.complex64))
    for part, matrices in captured(kspace * mask, mask):
        for sets, crop in ((1, 0.8), (2, 0.8), (1, 0.0)):
            check(matrices, start[:, part].flatten(1).T.contiguous(), sets, crop)


def captured(kspace, mask):
    """The pixelwise matrices that :func:`espirit_maps` makes, every third part."""
    with pytest.MonkeyPatch.context() as patch:
        kept = []
        patch.setattr("medrecon.data.espirit._pixelwise", lambda *a: kept.extend(_pixelwise(*a)) or iter(kept))
        espirit_maps(kspace, mask)
    return kept[::3]
