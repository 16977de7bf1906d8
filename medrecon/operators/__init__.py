"""Forward models: units are mm, rad and cycles per field of view; k-space is centred at index ``n // 2``."""

from medrecon.operators.base import Composed, LinearOperator, Operator, check_adjoint, implicit_solve
from medrecon.operators.blocks import Channels, Stack, Sum
from medrecon.operators.bridge import AsComplex, OnChannels, RealAsComplex
from medrecon.operators.ct import ConeBeam, FanBeam, ParallelBeam, Projector
from medrecon.operators.image import Blur, FiniteDifferences, crop, gaussian_blur, super_resolution
from medrecon.operators.linalg import operator_norm
from medrecon.operators.motion import Warp, moving_sense, rigid_field
from medrecon.operators.mri import CartesianMRI, DynamicMRI, MulticoilMRI, SoftSense, sense
from medrecon.operators.nonlinear import Magnitude, Network, OversampledFourier, Saturation, phase_retrieval
from medrecon.operators.nufft import NUFFT, Coils, density_compensation, nufft_sense
from medrecon.operators.spectral import Dense, Separable, Spectral
from medrecon.operators.weights import Multiple, Weights, Whitening

__all__ = [
    "NUFFT",
    "AsComplex",
    "Blur",
    "CartesianMRI",
    "Channels",
    "Coils",
    "Composed",
    "ConeBeam",
    "Dense",
    "DynamicMRI",
    "FanBeam",
    "FiniteDifferences",
    "LinearOperator",
    "Magnitude",
    "MulticoilMRI",
    "Multiple",
    "Network",
    "OnChannels",
    "Operator",
    "OversampledFourier",
    "ParallelBeam",
    "Projector",
    "RealAsComplex",
    "Saturation",
    "Separable",
    "SoftSense",
    "Spectral",
    "Stack",
    "Sum",
    "Warp",
    "Weights",
    "Whitening",
    "check_adjoint",
    "crop",
    "density_compensation",
    "gaussian_blur",
    "implicit_solve",
    "moving_sense",
    "nufft_sense",
    "operator_norm",
    "phase_retrieval",
    "rigid_field",
    "sense",
    "super_resolution",
]
