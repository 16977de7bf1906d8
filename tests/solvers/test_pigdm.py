"""PiGDM: exact for white images."""

import pytest
import torch

from medrecon.noise import karras
from medrecon.sample import sample
from medrecon.solvers import PiGDM

from ..make.posteriors import SharedNoise, distance, repeated, white

DOUBLE = torch.float64


@pytest.mark.slow
def test_pigdm_is_exact_for_white_images_and_close_for_others():
    white_prior = white(0.4)
    prior, data, mean, covariance = repeated(3000, prior=white_prior)
    x = sample(PiGDM(image_std=0.4), prior, data, karras(20.0, 0.005, 400), noise=SharedNoise(0))
    error, spread = distance(x, mean, covariance, prior.mean)
    assert error < 0.02
    assert spread < 0.08
    prior, data, mean, covariance = repeated(3000)
    x = sample(PiGDM(image_std=0.4), prior, data, karras(20.0, 0.005, 400), noise=SharedNoise(0))
    assert 0.02 < distance(x, mean, covariance, prior.mean)[0] < 0.15  # a known bias
