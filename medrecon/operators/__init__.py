"""Forward models: units are mm, rad and cycles per field of view; k-space is centred at index ``n // 2``."""

from medrecon.operators.base import Composed, LinearOperator, Operator, check_adjoint
from medrecon.operators.bridge import AsComplex
from medrecon.operators.ct import ParallelBeam
from medrecon.operators.mri import CartesianMRI, MulticoilMRI, sense
from medrecon.operators.weights import Weights

__all__ = [
    "AsComplex",
    "CartesianMRI",
    "Composed",
    "LinearOperator",
    "MulticoilMRI",
    "Operator",
    "ParallelBeam",
    "Weights",
    "check_adjoint",
    "sense",
]
