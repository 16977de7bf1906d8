"""One row of expectations per entry of ``SOLVERS``; every suite of this folder reads this table.

A new solver needs one row. Defaults of :class:`Expected` are the strict ones, so a row lists exceptions only, each with the
sentence that explains it. Solvers with a prior must also give ``without_data`` and ``mode_error``.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch

from medrecon.noise import karras
from medrecon.operators.spectral import Dense as SpectralDense
from medrecon.solvers import DDNM, DDRM, DDS, DDS3D, MGDM, SOLVERS, DDNMPlus, DiffPIR

LADDER = karras(20.0, 0.01, 60)
SINGLE_LEVEL = torch.tensor([1.0, 0.0])
"""Of solvers without a prior, which estimate the image in one step."""


class Bound(NamedTuple):
    """A number and the reason why it is not smaller."""

    value: float
    reason: str


class Interval(NamedTuple):
    """Where a number lies, and why it is not 1."""

    low: float
    high: float
    reason: str


class Recursion(NamedTuple):
    """What is left of a solver without data: kernel and ``eta`` of ``renoise``, and the prior's noise level over sigma."""

    kernel: Literal["ddim", "ddnm"] = "ddim"
    eta: float = 1.0
    sigma_scale: float = 1.0


ROUND_OFF = Bound(1e-6, "round-off")
LESS_NOISE = "a move leaves part of the noise that the prior sees, which is a little less than there is"
FIXED_STEP = "a step of fixed length stops near y, not on it"
LEAST_NORM = "the least-norm solution is nearer 0 than the prior mean"
ONE_PARTICLE = "one particle, whose weight has no effect; test_smc.py has the error of many, which is 0"
UNGUIDED = "the last step takes the clean estimate, or its weight would be infinite"
SHARED_SYSTEM = (
    "data and differences along z have one system, without a closed form: conjugate gradients that have not converged amplify "
    "rounding in what neither determines"
)
BETWEEN = "x0 lies between the modes while the noise is high, where the data do not tell the modes apart"


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Expectations of one solver, with default settings unless a field gives others.

    Args:
        settings: settings that differ from the defaults in all suites, to save time.
        operator: the largest class of operators it takes; ``"none"``: it samples the prior alone.
        likelihood: the noise models it takes; ``"none"``: it samples the prior alone; ``"maps"``: k-space with unknown maps.
        prior: whether it needs a prior.
        takes_start: whether it can begin with a given image.
        last_step_evaluations: network evaluations of the last step beyond those of the others.
        stops_early: whether it may need fewer evaluations than declared.
        not_nearer: why its estimate need not be nearer to the posterior mean than the prior mean is; empty: it must be.
        identity_settings: settings with which A = I without noise gives the data back.
        identity: tolerance of that, and what keeps the solver from it.
        satisfies_data: whether its result has residual 0 for data without noise.
        without_data: the recursion of its variance if there are no data, or the interval of its variance over the prior's.
        calibrated_settings: settings with which ``calibrated`` is true on a long ladder; None: never.
        nonlinear: settings with which it fits data of a nonlinear operator; None: it refuses such an operator.
        counts: settings with which it explains counts (Poisson and transmission data) from a start of noise; None: not tested.
        mode_error: error of the probability of the first of two modes (true value 0.70), and what is particular about it.
        rounding: why single precision differs from double precision; empty: it must not.
        along_z: whether the first spatial axis is z, along which it relates slices; with one spatial axis, halves of an image
            then influence each other.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    operator: Literal["none", "any", "linear", "spectral", "projector", "identity"] = "linear"
    likelihood: Literal["none", "gaussian", "any", "maps"] = "gaussian"
    prior: bool = True
    takes_start: bool = True
    last_step_evaluations: int = 0
    stops_early: bool = False
    not_nearer: str = ""
    identity_settings: dict[str, Any] = field(default_factory=dict)
    identity: Bound = ROUND_OFF
    satisfies_data: bool = False
    without_data: Recursion | Interval | None = None
    calibrated_settings: dict[str, Any] | None = None
    nonlinear: dict[str, Any] | None = None
    counts: dict[str, Any] | None = None
    mode_error: Bound | None = None
    rounding: str = ""
    along_z: bool = False


EXPECTED = {
    # Without a prior
    "zero-filled": Expected(
        prior=False, not_nearer="A^H y is shrunk by the singular values of A, and the prior mean plays no part"
    ),
    "cg-sense": Expected(prior=False, not_nearer=LEAST_NORM, identity=Bound(0.02, "shrinks by lam = 0.01")),
    "wavelet": Expected(
        prior=False,
        not_nearer="sparsity in wavelets is unrelated to this Gaussian",
        identity=Bound(0.05, "soft thresholding moves every coefficient by lam"),
    ),
    "tv": Expected(
        prior=False, not_nearer="total variation is unrelated to this Gaussian", identity=Bound(0.05, "flattens by lam")
    ),
    "tv-fista": Expected(
        prior=False, not_nearer="total variation is unrelated to this Gaussian", identity=Bound(0.05, "flattens by lam")
    ),
    "tv-pdhg": Expected(
        prior=False, not_nearer="total variation is unrelated to this Gaussian", identity=Bound(0.05, "flattens by lam")
    ),
    "low-rank": Expected(
        prior=False,
        not_nearer="two frames of three pixels have no rank to spare",
        identity=Bound(0.1, "shrinks every singular value by lam times the largest"),
    ),
    "sirt": Expected(prior=False, not_nearer=LEAST_NORM),
    # Coil maps are part of the unknowns, which dense operators do not have: test_nlinv.py.
    "nlinv": Expected(prior=False, likelihood="maps", takes_start=False),
    # A filter between A^T and y, which only X-ray transforms have: test_tomography.py.
    "fbp": Expected(prior=False, operator="projector"),
    # The prior alone
    "ddim": Expected(operator="none", likelihood="none"),
    "ddpm": Expected(operator="none", likelihood="none"),
    "pc": Expected(operator="none", likelihood="none"),
    "langevin": Expected(
        operator="none", likelihood="none", last_step_evaluations=1
    ),  # a clean estimate after the moves
    "heun": Expected(operator="none", likelihood="none", last_step_evaluations=-1),  # no slope at sigma = 0
    "dpmsolver": Expected(operator="none", likelihood="none"),
    # Explicit approximations and projections
    "scoremri": Expected(
        satisfies_data=True, without_data=Interval(0.9, 1.05, LESS_NOISE), mode_error=Bound(-0.198, BETWEEN)
    ),
    "scoremed": Expected(
        satisfies_data=True, without_data=Interval(0.9, 1.05, LESS_NOISE), mode_error=Bound(-0.176, BETWEEN)
    ),
    "ald": Expected(
        last_step_evaluations=1,  # a clean estimate after the moves
        identity=Bound(0.08, "the last moves leave noise of the last level"),
        without_data=Interval(0.8, 1.0, LESS_NOISE),
        mode_error=Bound(-0.167, BETWEEN),
    ),
    "ald-relative": Expected(
        settings={
            "weight": 1.0
        },  # 5 amplifies round-off where the residual is small, since the data term keeps its length
        last_step_evaluations=1,  # a clean estimate after the moves
        identity_settings={"weight": 5.0},
        identity=Bound(0.12, "the last moves leave noise of the last level"),
        without_data=Interval(0.8, 1.0, LESS_NOISE),
        mode_error=Bound(-0.162, BETWEEN),
    ),
    "ilvr": Expected(satisfies_data=True, without_data=Recursion(), mode_error=Bound(-0.179, BETWEEN)),
    "repaint": Expected(
        operator="spectral", satisfies_data=True, without_data=Recursion(), mode_error=Bound(-0.182, BETWEEN)
    ),
    "dps": Expected(
        operator="any",
        likelihood="any",
        identity=Bound(0.15, FIXED_STEP),
        without_data=Recursion(),
        nonlinear={"zeta": 0.1},
        mode_error=Bound(-0.151, BETWEEN),
    ),
    "mcg": Expected(satisfies_data=True, without_data=Recursion(), mode_error=Bound(-0.128, BETWEEN)),
    "pigdm": Expected(
        identity=Bound(1e-3, "the gradient passes the Jacobian, which is 1 only at the end"),
        without_data=Recursion(),
        mode_error=Bound(-0.139, BETWEEN),
    ),
    "tmpd": Expected(
        without_data=Recursion(),
        calibrated_settings={"n_cg": 20},
        mode_error=Bound(-0.088, "the smallest: one Gaussian of the right covariance for two modes"),
    ),
    "ddrm": Expected(
        operator="spectral",
        satisfies_data=True,
        without_data=Recursion("ddnm", DDRM().eta),
        mode_error=Bound(-0.170, BETWEEN),
    ),
    "ddnm": Expected(
        satisfies_data=True, without_data=Recursion(DDNM().kernel, DDNM().eta), mode_error=Bound(-0.164, BETWEEN)
    ),
    "ddnmplus": Expected(without_data=Recursion("ddnm", DDNMPlus().eta), mode_error=Bound(-0.170, BETWEEN)),
    "mgdm": Expected(without_data=Recursion(MGDM().kernel, MGDM().eta), mode_error=Bound(-0.124, BETWEEN)),
    "dsg": Expected(
        operator="any",
        likelihood="any",
        identity_settings={"guidance": 1.0},  # the default leaves more to the prior
        identity=Bound(0.03, "its noise has the prior's length; all of it must turn, or 60 steps stop far from y"),
        without_data=Recursion(),
        nonlinear={"guidance": 0.5},
        mode_error=Bound(0.0, "by luck of its guidance, 0.2: with 0.05 the error is -0.10, with 0.5 it is +0.15"),
    ),
    "lgd": Expected(
        operator="any",
        likelihood="any",
        identity=Bound(0.15, FIXED_STEP),
        without_data=Recursion(),
        nonlinear={"zeta": 0.1},
        mode_error=Bound(-0.174, BETWEEN),
    ),
    # Variational
    "reddiff": Expected(
        operator="any",
        takes_start=False,
        identity=Bound(0.1, "Adam's steps have a length"),
        without_data=Interval(0.0, 0.4, "a point estimate: what is left is the jitter of Adam"),
        nonlinear={},
        mode_error=Bound(-0.142, BETWEEN),
    ),
    # Decoupled data consistency
    "dds": Expected(
        without_data=Recursion(DDS().kernel, DDS().eta, DDS().sigma_scale),
        mode_error=Bound(-0.167, BETWEEN),
    ),
    "diffpir": Expected(
        likelihood="any",
        without_data=Recursion("ddnm", DiffPIR().fresh_noise_fraction ** 0.5),
        counts={},
        mode_error=Bound(-0.185, BETWEEN),
    ),
    "daps": Expected(
        not_nearer="r = sigma inflates the variance of its samples; test_daps.py has the exact one",
        without_data=Interval(1.5, 2.1, "r = sigma is too wide a spread for x0 given x"),
        mode_error=Bound(-0.166, BETWEEN),
    ),
    "daps-langevin": Expected(
        settings={"n_inner": 10},  # the default of 100 takes minutes
        operator="any",
        likelihood="any",
        not_nearer="r = sigma inflates the variance of its samples; test_daps.py has the exact one",
        identity=Bound(0.03, "ten moves do not reach the data"),
        without_data=Interval(1.5, 2.1, "r = sigma is too wide a spread for x0 given x"),
        nonlinear={"lr": 1e-4},
        counts={"n_inner": 30},
        mode_error=Bound(-0.196, BETWEEN),
    ),
    "pnpdm": Expected(
        identity=Bound(0.06, "ends with a draw by the prior step, at the last level"),
        without_data=Interval(0.5, 0.8, "five steps of the reverse diffusion lose variance"),
        mode_error=Bound(-0.159, "its levels fall faster than its chain can change the mode"),
    ),
    "sitcom": Expected(
        operator="any",
        stops_early=True,
        identity_settings={"n_inner": 20},  # the default of five leaves more to the prior
        identity=Bound(0.02, "twenty Adam steps an input come near; five do not reach the data"),
        without_data=Recursion("ddnm"),
        nonlinear={"n_inner": 10, "lr": 0.05},
        mode_error=Bound(-0.122, BETWEEN),
        rounding="an item stops once its residual is below the noise: rounding decides on a step more or less",
    ),
    "smrd": Expected(
        last_step_evaluations=1,  # a clean estimate after the moves
        identity=Bound(1e-2, "the weight learnt so far is never infinite"),
        without_data=Interval(0.8, 1.0, LESS_NOISE),
        mode_error=Bound(-0.191, BETWEEN),
    ),
    # Volumes: the first spatial axis, of any image, is z; see DDS3D.needs_volume
    "dds-3d": Expected(
        settings={"strength": 0.005},  # total variation is unrelated to this Gaussian
        without_data=Recursion(DDS3D().kernel, DDS3D().eta, DDS3D().sigma_scale),
        mode_error=Bound(-0.167, BETWEEN),
        rounding=SHARED_SYSTEM,
        along_z=True,
    ),
    "mbir": Expected(
        settings={"strength": 0.005},  # total variation is unrelated to this Gaussian
        without_data=Interval(0.9, 1.05, LESS_NOISE),
        mode_error=Bound(-0.151, BETWEEN),
        rounding=SHARED_SYSTEM,
        along_z=True,
    ),
    # Sequential Monte Carlo, here with one particle each, whose weight has no effect; test_smc.py has many
    "tds": Expected(
        identity=Bound(0.05, UNGUIDED),
        without_data=Recursion(),
        mode_error=Bound(-0.088, ONE_PARTICLE),
    ),
    "tds-isotropic": Expected(
        identity=Bound(0.05, UNGUIDED),
        without_data=Recursion(),
        mode_error=Bound(-0.139, ONE_PARTICLE),
    ),
    "fps": Expected(
        operator="spectral",
        takes_start=False,
        satisfies_data=True,
        without_data=Recursion(),
        mode_error=Bound(-0.188, ONE_PARTICLE),
    ),
    "mcgdiff": Expected(
        operator="spectral",
        takes_start=False,
        satisfies_data=True,
        without_data=Recursion(),
        mode_error=Bound(-0.183, ONE_PARTICLE),
    ),
    "ddsmc": Expected(
        operator="spectral",
        without_data=Interval(0.95, 1.3, "exact for white images of the standard deviation 0.5; these have 0.2 to 0.6"),
        satisfies_data=True,
        mode_error=Bound(-0.186, ONE_PARTICLE),
    ),
    # Denoising and super-resolution of images
    # The identity alone, so that no dense operator is taken: test_tweedie.py.
    "tweedie": Expected(operator="identity", takes_start=False),
    "r2d2": Expected(
        operator="spectral",
        identity_settings={"strength": 0.3},  # the default leaves more to the prior
        identity=Bound(0.05, "a step removes only part of the residual"),
        without_data=Interval(1.0, 1.2, "the reverse diffusion as discretised there adds a little too much noise"),
        mode_error=Bound(-0.203, "a step removes only part of the residual"),
    ),
    # Known operators only here: DPS and DDRM. Unknown kernels are in test_blinddps.py and test_gibbsddrm.py.
    "blinddps": Expected(
        settings={"zeta": 0.04},  # that of DPS; its own is for images that start near the data
        operator="any",
        identity=Bound(0.15, FIXED_STEP),
        without_data=Recursion(),
        nonlinear={"zeta": 0.1},
        mode_error=Bound(-0.151, BETWEEN),
    ),
    "gibbsddrm": Expected(
        operator="spectral",
        satisfies_data=True,
        without_data=Recursion("ddnm", DDRM().eta),
        mode_error=Bound(-0.170, BETWEEN),
    ),
}

UNCONDITIONAL = [name for name, row in EXPECTED.items() if row.likelihood == "none"]
GENERAL = [
    name
    for name, row in EXPECTED.items()
    if row.operator not in ("none", "projector", "identity") and row.likelihood != "maps"
]
"""Solvers that take the dense operators of these suites."""
LEARNED = [name for name in GENERAL if EXPECTED[name].prior]


def make(name, **settings):
    """The solver, with the settings of its row and those given."""
    return SOLVERS[name](**{**EXPECTED[name].settings, **settings})


def fitted(name, data):
    """The same data; for solvers that need singular values, with an operator that has them."""
    if EXPECTED[name].operator != "spectral":
        return data
    return replace(data, A=SpectralDense(data.A.matrix, data.A.image))


def ladder(name):
    return LADDER if EXPECTED[name].prior else SINGLE_LEVEL
