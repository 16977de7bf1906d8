"""What is expected of every entry of ``SOLVERS``."""

from dataclasses import replace

import torch

from medrecon.noise import karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.operators.spectral import Spectral
from medrecon.solvers import SOLVERS, is_unconditional

PROJECTORS_ONLY = {"fbp": "a filter between A^T and y that only X-ray transforms have; test_tomography.py"}
UNCONDITIONAL = [name for name, solver in SOLVERS.items() if is_unconditional(solver)]
GENERAL = [name for name in SOLVERS if name not in PROJECTORS_ONLY and name not in UNCONDITIONAL]
LEARNED = [name for name in GENERAL if SOLVERS[name].requires.prior]
CLASSICAL = [name for name in SOLVERS if not SOLVERS[name].requires.prior]
LADDER = karras(20.0, 0.01, 60)
ONE_RUNG = torch.tensor([1.0, 0.0])


def make(name):
    """The solver with its defaults."""
    return SOLVERS[name]()


def fitted(name, data):
    """The same problem for solvers that must know the singular values."""
    if SOLVERS[name].requires.operator is not Spectral:
        return data
    return replace(data, A=SpectralDense(data.A.matrix, data.A.image))


def ladder(name):
    return LADDER if name in LEARNED else ONE_RUNG
