"""Smooth random phase."""

import numpy as np

from medrecon.data.phase import smooth_phase


def test_smooth_phase_does_not_depend_on_the_crop_and_is_uniform():
    phase = smooth_phase((40, 50), np.random.RandomState(0))
    assert np.abs(np.diff(phase, n=3, axis=0)).max() < 1e-4  # second order: third differences vanish
    constants = np.exp(1j * np.array([smooth_phase((1, 1), np.random.RandomState(s))[0, 0] for s in range(2000)]))
    assert abs(constants.mean()) < 4 / 2000**0.5
