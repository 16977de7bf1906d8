"""Solvers by their names on the command line; a new one needs one file and one line here."""

from medrecon.likelihood import NoData
from medrecon.solvers.ald import ALD, ALDRelative
from medrecon.solvers.base import Requires, Solver, renoise
from medrecon.solvers.blinddps import BlindDPS
from medrecon.solvers.classical import TV, CGSense, L1Wavelet, LowRank, TVFista, TVPrimalDual, ZeroFilled
from medrecon.solvers.daps import DAPS, DAPSLangevin
from medrecon.solvers.ddim import DDIM
from medrecon.solvers.ddnm import DDNM, DDNMPlus
from medrecon.solvers.ddpm import DDPM
from medrecon.solvers.ddrm import DDRM
from medrecon.solvers.dds import DDS
from medrecon.solvers.dds3d import DDS3D
from medrecon.solvers.ddsmc import DDSMC
from medrecon.solvers.diffpir import DiffPIR
from medrecon.solvers.dpmsolver import DPMSolver
from medrecon.solvers.dps import DPS
from medrecon.solvers.dsg import DSG
from medrecon.solvers.fps import FPS
from medrecon.solvers.gibbsddrm import GibbsDDRM
from medrecon.solvers.heun import Heun
from medrecon.solvers.ilvr import ILVR
from medrecon.solvers.langevin import Langevin
from medrecon.solvers.lgd import LGD
from medrecon.solvers.mbir import MBIR
from medrecon.solvers.mcg import MCG
from medrecon.solvers.mcgdiff import MCGDiff
from medrecon.solvers.mgdm import MGDM
from medrecon.solvers.multistep import MultistepSolver
from medrecon.solvers.nlinv import NLINV
from medrecon.solvers.pc import PredictorCorrector
from medrecon.solvers.pigdm import PiGDM
from medrecon.solvers.pnpdm import PnPDM
from medrecon.solvers.r2d2 import R2D2
from medrecon.solvers.reddiff import REDDiff
from medrecon.solvers.repaint import RePaint
from medrecon.solvers.scoremed import ScoreMed
from medrecon.solvers.scoremri import ScoreMRI
from medrecon.solvers.sitcom import SITCOM
from medrecon.solvers.smrd import SMRD
from medrecon.solvers.tds import TDS, TDSIsotropic
from medrecon.solvers.tmpd import TMPD
from medrecon.solvers.tomography import FBP, SIRT
from medrecon.solvers.tweedie import Tweedie

SOLVERS: dict[str, type[Solver]] = {
    # Classical
    "zero-filled": ZeroFilled,
    "cg-sense": CGSense,
    "wavelet": L1Wavelet,
    "tv": TV,
    "tv-fista": TVFista,
    "tv-pdhg": TVPrimalDual,
    "low-rank": LowRank,
    "nlinv": NLINV,
    "fbp": FBP,
    "sirt": SIRT,
    # The prior alone
    "langevin": Langevin,
    "ddpm": DDPM,
    "ddim": DDIM,
    "pc": PredictorCorrector,
    "heun": Heun,
    "dpmsolver": DPMSolver,
    # Explicit approximations and projections
    "scoremri": ScoreMRI,
    "scoremed": ScoreMed,
    "ald": ALD,
    "ald-relative": ALDRelative,
    "ilvr": ILVR,
    "repaint": RePaint,
    "dps": DPS,
    "mcg": MCG,
    "pigdm": PiGDM,
    "tmpd": TMPD,
    "ddrm": DDRM,
    "ddnm": DDNM,
    "ddnmplus": DDNMPlus,
    "mgdm": MGDM,
    "dsg": DSG,
    "lgd": LGD,
    # Variational
    "reddiff": REDDiff,
    # Decoupled data consistency
    "dds": DDS,
    "diffpir": DiffPIR,
    "daps": DAPS,
    "daps-langevin": DAPSLangevin,
    "pnpdm": PnPDM,
    "sitcom": SITCOM,
    "smrd": SMRD,
    # Volumes
    "dds-3d": DDS3D,
    "mbir": MBIR,
    # Sequential Monte Carlo
    "tds": TDS,
    "tds-isotropic": TDSIsotropic,
    "fps": FPS,
    "mcgdiff": MCGDiff,
    "ddsmc": DDSMC,
    # Denoising and super-resolution of images
    "tweedie": Tweedie,
    "r2d2": R2D2,
    # Images blurred by an unknown kernel
    "blinddps": BlindDPS,
    "gibbsddrm": GibbsDDRM,
}


def is_unconditional(solver: Solver | type[Solver]) -> bool:
    """Whether the solver samples the prior alone and takes no data."""
    return solver.requires.likelihood is NoData


__all__ = [
    "ALD",
    "DAPS",
    "DDIM",
    "DDNM",
    "DDPM",
    "DDRM",
    "DDS",
    "DDS3D",
    "DDSMC",
    "DPS",
    "DSG",
    "FBP",
    "FPS",
    "ILVR",
    "LGD",
    "MBIR",
    "MCG",
    "MGDM",
    "NLINV",
    "R2D2",
    "SIRT",
    "SITCOM",
    "SMRD",
    "SOLVERS",
    "TDS",
    "TMPD",
    "TV",
    "ALDRelative",
    "BlindDPS",
    "CGSense",
    "DAPSLangevin",
    "DDNMPlus",
    "DPMSolver",
    "DiffPIR",
    "GibbsDDRM",
    "Heun",
    "L1Wavelet",
    "Langevin",
    "LowRank",
    "MCGDiff",
    "MultistepSolver",
    "PiGDM",
    "PnPDM",
    "PredictorCorrector",
    "REDDiff",
    "RePaint",
    "Requires",
    "ScoreMRI",
    "ScoreMed",
    "Solver",
    "TDSIsotropic",
    "TVFista",
    "TVPrimalDual",
    "Tweedie",
    "ZeroFilled",
    "is_unconditional",
    "renoise",
]
