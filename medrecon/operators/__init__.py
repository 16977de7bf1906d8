"""Forward models: units are mm, rad and cycles per field of view; k-space is centred at index ``n // 2``."""

from medrecon.operators.base import Composed, LinearOperator, Operator, check_adjoint, implicit_solve
from medrecon.operators.blocks import Channels, Slices, Stack, Sum
from medrecon.operators.bridge import AsComplex, OnChannels, RealAsComplex
from medrecon.operators.ct import ConeBeam, Detector, FanBeam, Panel, ParallelBeam
from medrecon.operators.deblur import InnerBlur, SpectralBlur, Turbulence, centred_kernel, unit_kernel
from medrecon.operators.density import pipe_menon_dcf, voronoi_dcf
from medrecon.operators.image import (
    Blur,
    FiniteDifferences,
    crop,
    downsample_gaussian,
    downsample_kspace,
    downsample_mean,
    gaussian_blur,
    gaussian_kernel,
    motion_kernel,
)
from medrecon.operators.linalg import operator_norm
from medrecon.operators.motion import Poses, Shots, Warp, moving_sense, rigid_field
from medrecon.operators.mri import CartesianMRI, DynamicMRI, MulticoilMRI, SoftSense, sense
from medrecon.operators.nonlinear import Magnitude, Network, OversampledFourier, Saturation, phase_retrieval
from medrecon.operators.nufft import NUFFT, Coils, nufft_sense
from medrecon.operators.nufft_backends import Finufft, SparseGridding, TableGridding
from medrecon.operators.projector import Projector
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
    "Detector",
    "DynamicMRI",
    "FanBeam",
    "FiniteDifferences",
    "Finufft",
    "InnerBlur",
    "LinearOperator",
    "Magnitude",
    "MulticoilMRI",
    "Multiple",
    "Network",
    "OnChannels",
    "Operator",
    "OversampledFourier",
    "Panel",
    "ParallelBeam",
    "Poses",
    "Projector",
    "RealAsComplex",
    "Saturation",
    "Separable",
    "Shots",
    "Slices",
    "SoftSense",
    "SparseGridding",
    "Spectral",
    "SpectralBlur",
    "Stack",
    "Sum",
    "TableGridding",
    "Turbulence",
    "Warp",
    "Weights",
    "Whitening",
    "centred_kernel",
    "check_adjoint",
    "crop",
    "downsample_gaussian",
    "downsample_kspace",
    "downsample_mean",
    "gaussian_blur",
    "gaussian_kernel",
    "implicit_solve",
    "motion_kernel",
    "moving_sense",
    "nufft_sense",
    "operator_norm",
    "phase_retrieval",
    "pipe_menon_dcf",
    "rigid_field",
    "sense",
    "unit_kernel",
    "voronoi_dcf",
]
