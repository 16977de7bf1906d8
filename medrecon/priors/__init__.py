"""Priors of images: ``prior(x, sigma)`` is the clean estimate of ``x = x0 + sigma n``."""

from medrecon.priors.base import Counted, Prior, eps, score, with_vjp
from medrecon.priors.combine import channelwise, equivariant, guided, multiscale, perpendicular, slicewise
from medrecon.priors.denoiser import TrainedNoise, dimmed
from medrecon.priors.density import log_density
from medrecon.priors.gaussian import GaussianPrior
from medrecon.priors.mixture import MixturePrior
from medrecon.priors.nets import EDMNet, EpsNet, FlowNet

__all__ = [
    "Counted",
    "EDMNet",
    "EpsNet",
    "FlowNet",
    "GaussianPrior",
    "MixturePrior",
    "Prior",
    "TrainedNoise",
    "channelwise",
    "dimmed",
    "eps",
    "equivariant",
    "guided",
    "log_density",
    "multiscale",
    "perpendicular",
    "score",
    "slicewise",
    "with_vjp",
]
