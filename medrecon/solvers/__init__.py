"""Methods by the name they have on the command line; a new one is one file and one line here."""

from medrecon.solvers.base import Requires, Solver, renoise
from medrecon.solvers.classical import TV, CGSense, L1Wavelet, ZeroFilled
from medrecon.solvers.ddnm import DDNM, DDNMPlus
from medrecon.solvers.dds import DDS
from medrecon.solvers.dps import DPS
from medrecon.solvers.mgdm import MGDM
from medrecon.solvers.tomography import FBP, SIRT

SOLVERS: dict[str, type[Solver]] = {
    "zero-filled": ZeroFilled,
    "cg-sense": CGSense,
    "wavelet": L1Wavelet,
    "tv": TV,
    "fbp": FBP,
    "sirt": SIRT,
    "ddnm": DDNM,
    "ddnmplus": DDNMPlus,
    "dds": DDS,
    "dps": DPS,
    "mgdm": MGDM,
}

__all__ = [
    "DDNM",
    "DDS",
    "DPS",
    "FBP",
    "MGDM",
    "SIRT",
    "SOLVERS",
    "TV",
    "CGSense",
    "DDNMPlus",
    "L1Wavelet",
    "Requires",
    "Solver",
    "ZeroFilled",
    "renoise",
]
