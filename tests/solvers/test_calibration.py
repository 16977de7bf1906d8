"""What ``calibrated`` promises."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medrecon.data.scan import CartesianScan
from medrecon.networks import ResidualUNet
from medrecon.noise import karras
from medrecon.posterior import PriorSpec
from medrecon.reconstruction import plan
from medrecon.sample import sample
from medrecon.solvers import TMPD
from medrecon.solvers.base import variance_kept

from ..make.posteriors import SharedNoise, gaussian_prior, measured
from .expectations import EXPECTED, make

DOUBLE = torch.float64


def repeated(n, noise_std=0.05):
    _, data, matrix = measured(batch=1, noise_std=noise_std, seed=5)
    prior = gaussian_prior()
    return prior, replace(data, y=data.y.expand(n, -1).contiguous()), prior.posterior(matrix, data.y[0], noise_std)


@pytest.mark.parametrize("steps", [1, 5, 10, 20, 50, 150])
def test_who_is_called_calibrated_has_the_variance_of_the_posterior(steps):
    """TMPD's variance is within a tenth of the true one if it is called calibrated, and further below it if not."""
    prior, data, (mean, covariance) = repeated(2000)
    sigmas = karras(8.0, 0.005, steps)
    x = sample(TMPD(n_cg=20), prior, data, sigmas, noise=SharedNoise(0)).flatten(1)
    share = float(x.var(0).sum() / covariance.trace())
    # 2000 samples of three free directions: standard error 0.018.
    assert TMPD(n_cg=20).calibrated(sigmas) == (steps >= 150)
    if steps >= 150:
        assert abs(share - 1) < 0.1
        assert (x.mean(0) - mean).norm() < 0.1 * covariance.trace().sqrt()
    else:
        assert share < 0.9
    modes = torch.linalg.eigvalsh(covariance).clamp(min=0).sqrt()
    expected = float((variance_kept(sigmas, modes) * modes**2).sum() / covariance.trace())
    assert abs(share - expected) < 0.06 * expected


def test_calibration_needs_the_kernel_the_solve_and_the_ladder():
    long = karras(8.0, 0.005, 400)
    assert TMPD(n_cg=20).calibrated(long)
    assert not TMPD(n_cg=20, eta=0.0).calibrated(long)
    assert not TMPD(n_cg=5).calibrated(long)
    assert not TMPD(n_cg=20).calibrated(karras(0.3, 0.005, 400))  # noise of 0.3 is no start for images of spread 1
    assert not TMPD(n_cg=20).calibrated(karras(8.0, 0.2, 400))  # ends before the detail
    for name, row in EXPECTED.items():
        settings = row.calibrated_settings
        assert make(name, **(settings or {})).calibrated(long) == (settings is not None), name


def test_sidecars_ask_the_solver_about_their_ladder(monkeypatch):
    """A run that starts from another estimate is not calibrated, whatever the solver reports."""
    asked = []
    monkeypatch.setattr(TMPD, "calibrated", lambda self, sigmas: asked.append(sigmas) or True)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).eval()
    kspace = torch.randn(1, 1, 24, 20, generator=torch.Generator().manual_seed(0), dtype=torch.complex64).numpy()
    scan = CartesianScan(path=Path("a.h5"), format="toy", kspace=kspace, mask=np.ones(20, bool))
    prior = PriorSpec(name="toy", version="1", weights_sha256="0", network=lambda: network)
    for start, expected in (({}, True), ({"start": "cg-sense", "start_sigma": 0.5}, False)):
        made = plan(scan, bundle=prior, solver="tmpd", steps=3, noise_std=0.1, **start)
        assert made.run().record["solver"]["calibrated"] is expected
        assert expected is False or torch.equal(asked[-1], made.sampling.sigmas)
