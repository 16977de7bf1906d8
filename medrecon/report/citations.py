"""Papers to cite for the methods of a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["PAPERS", "SOLVER_PAPERS", "Paper"]


class Paper(NamedTuple):
    """A paper.

    Args:
        text: authors, title, venue and year.
        address: address of the paper (DOI or arXiv), or empty.
    """

    text: str
    address: str = ""


def _arxiv(text: str, number: str) -> Paper:
    return Paper(text, f"https://arxiv.org/abs/{number}")


def _doi(text: str, number: str) -> Paper:
    return Paper(text, f"https://doi.org/{number}")


PAPERS: Mapping[str, Paper] = {
    # Classical
    "sense": _doi(
        "Pruessmann et al., SENSE: sensitivity encoding for fast MRI, Magn. Reson. Med. 42, 1999",
        "10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S",
    ),
    "cg-sense": _doi(
        "Pruessmann et al., Advances in sensitivity encoding with arbitrary k-space trajectories, Magn. Reson. Med. 46, 2001",
        "10.1002/mrm.1241",
    ),
    "batchelor": _doi(
        "Batchelor et al., Matrix description of general motion correction applied to multishot images, Magn. Reson. Med. 54, "
        "2005",
        "10.1002/mrm.20656",
    ),
    "cordero-grande": _doi(
        "Cordero-Grande et al., Sensitivity encoding for aligned multishot magnetic resonance reconstruction, IEEE Trans. "
        "Comput. Imaging 2, 2016",
        "10.1109/TCI.2016.2557069",
    ),
    "sparse-mri": _doi("Lustig et al., Sparse MRI, Magn. Reson. Med. 58, 2007", "10.1002/mrm.21391"),
    "fista": _doi(
        "Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, SIAM J. Imaging Sci. 2, 2009",
        "10.1137/080716542",
    ),
    "rof": _doi(
        "Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 60, 1992",
        "10.1016/0167-2789(92)90242-F",
    ),
    "split-bregman": _doi(
        "Goldstein and Osher, The split Bregman method for L1-regularized problems, SIAM J. Imaging Sci. 2, 2009",
        "10.1137/080725891",
    ),
    "fista-tv": _doi(
        "Beck and Teboulle, Fast gradient-based algorithms for constrained total variation, IEEE Trans. Image Process. 18, 2009",
        "10.1109/TIP.2009.2028250",
    ),
    "condat": _doi(
        "Condat, A primal-dual splitting method, J. Optim. Theory Appl. 158, 2013", "10.1007/s10957-012-0245-9"
    ),
    "low-rank": _doi(
        "Otazo, Candes, Sodickson, Low-rank plus sparse matrix decomposition for accelerated dynamic MRI, "
        "Magn. Reson. Med. 73, 2015",
        "10.1002/mrm.25240",
    ),
    "kak-slaney": Paper("Kak and Slaney, Principles of Computerized Tomographic Imaging, IEEE Press, 1988"),
    "sirt": _doi(
        "Gregor and Benson, Computational analysis and improvement of SIRT, IEEE Trans. Med. Imaging 27, 2008",
        "10.1109/TMI.2008.923696",
    ),
    "espirit": _doi(
        "Uecker et al., ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI, Magn. Reson. Med. 71, 2014",
        "10.1002/mrm.24751",
    ),
    "nlinv": _doi(
        "Uecker et al., Image reconstruction by regularized nonlinear inversion: joint estimation of coil sensitivities and "
        "image content, Magn. Reson. Med. 60, 2008",
        "10.1002/mrm.21691",
    ),
    "nufft": _doi(
        "Fessler and Sutton, Nonuniform fast Fourier transforms using min-max interpolation, "
        "IEEE Trans. Signal Process. 51, 2003",
        "10.1109/TSP.2002.807005",
    ),
    # The prior alone
    "edm": _arxiv(
        "Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS 2022", "2206.00364"
    ),
    "ncsn": _arxiv(
        "Song and Ermon, Generative modeling by estimating gradients of the data distribution, NeurIPS 2019",
        "1907.05600",
    ),
    "ddpm": _arxiv("Ho, Jain, Abbeel, Denoising diffusion probabilistic models, NeurIPS 2020", "2006.11239"),
    "ddim": _arxiv("Song, Meng, Ermon, Denoising diffusion implicit models, ICLR 2021", "2010.02502"),
    "score-sde": _arxiv(
        "Song et al., Score-based generative modeling through stochastic differential equations, ICLR 2021",
        "2011.13456",
    ),
    "dpmsolver": _arxiv(
        "Lu et al., DPM-Solver++: fast solver for guided sampling of diffusion probabilistic models, 2022", "2211.01095"
    ),
    # Posterior sampling
    "scoremri": _arxiv(
        "Chung and Ye, Score-based diffusion models for accelerated MRI, Medical Image Analysis 80, 2022", "2110.05243"
    ),
    "scoremed": _arxiv(
        "Song, Shen, Xing, Ermon, Solving inverse problems in medical imaging with score-based generative models, ICLR 2022",
        "2111.08005",
    ),
    "ald": _arxiv(
        "Jalal et al., Robust compressed sensing MRI with deep generative priors, NeurIPS 2021", "2108.01368"
    ),
    "ilvr": _arxiv(
        "Choi et al., ILVR: conditioning method for denoising diffusion probabilistic models, ICCV 2021", "2108.02938"
    ),
    "repaint": _arxiv(
        "Lugmayr et al., RePaint: inpainting using denoising diffusion probabilistic models, CVPR 2022", "2201.09865"
    ),
    "dps": _arxiv(
        "Chung, Kim, McCann, Klasky, Ye, Diffusion posterior sampling for general noisy inverse problems, ICLR 2023",
        "2209.14687",
    ),
    "mcg": _arxiv(
        "Chung, Sim, Ryu, Ye, Improving diffusion models for inverse problems using manifold constraints, NeurIPS 2022",
        "2206.00941",
    ),
    "pigdm": Paper(
        "Song, Vahdat, Mardani, Kautz, Pseudoinverse-guided diffusion models for inverse problems, ICLR 2023",
        "https://openreview.net/forum?id=9_gsMA8MRKQ",
    ),
    "tmpd": _arxiv("Boys et al., Tweedie moment projected diffusions for inverse problems, TMLR 2024", "2310.06721"),
    "mmps": _arxiv(
        "Rozet et al., Learning diffusion priors from observations by expectation maximization, NeurIPS 2024",
        "2405.13712",
    ),
    "blinddps": _arxiv(
        "Chung, Kim, Kim, Ye, Parallel diffusion models of operator and image for blind inverse problems, CVPR 2023",
        "2211.10656",
    ),
    "gibbsddrm": _arxiv(
        "Murata, Saito, Lai, Takida, Uesaka, Mitsufuji, Ermon, GibbsDDRM, ICML 2023",
        "2301.12686",
    ),
    "ddrm": _arxiv("Kawar, Elad, Ermon, Song, Denoising diffusion restoration models, NeurIPS 2022", "2201.11793"),
    "ddnm": _arxiv(
        "Wang, Yu, Zhang, Zero-shot image restoration using denoising diffusion null-space model, ICLR 2023",
        "2212.00490",
    ),
    "mgdm": _arxiv(
        "Askari, Roosta, Sun, Bi-level guided diffusion models for zero-shot medical imaging inverse problems, 2024",
        "2404.03706",
    ),
    "dsg": _arxiv(
        "Yang et al., Guidance with spherical Gaussian constraint for conditional diffusion, ICML 2024", "2402.03201"
    ),
    "lgd": Paper(
        "Song et al., Loss-guided diffusion models for plug-and-play controllable generation, ICML 2023",
        "https://proceedings.mlr.press/v202/song23k.html",
    ),
    "reddiff": _arxiv(
        "Mardani, Song, Kautz, Vahdat, A variational perspective on solving inverse problems with diffusion models, ICLR 2024",
        "2305.04391",
    ),
    "dds": _arxiv(
        "Chung, Lee, Ye, Decomposed diffusion sampler for accelerating large-scale inverse problems, ICLR 2024",
        "2303.05754",
    ),
    "mbir": _arxiv(
        "Chung, Ryu, McCann, Klasky, Ye, Solving 3D inverse problems using pre-trained 2D diffusion models, CVPR 2023",
        "2211.10655",
    ),
    "tpdm": _arxiv(
        "Lee, Chung, Park, Park, Ryu, Ye, Improving 3D imaging with pre-trained perpendicular 2D diffusion models, ICCV 2023",
        "2303.08440",
    ),
    "diffpir": _arxiv(
        "Zhu et al., Denoising diffusion models for plug-and-play image restoration, CVPR workshops 2023", "2305.08995"
    ),
    "daps": _arxiv(
        "Zhang et al., Improving diffusion inverse problem solving with decoupled noise annealing, CVPR 2025",
        "2407.01521",
    ),
    "pnpdm": _arxiv(
        "Wu et al., Principled probabilistic imaging using diffusion models as plug-and-play priors, NeurIPS 2024",
        "2405.18782",
    ),
    "sitcom": _arxiv(
        "Alkhouri et al., SITCOM: step-wise triple-consistent diffusion sampling for inverse problems, ICML 2025",
        "2410.04479",
    ),
    "smrd": _arxiv(
        "Ozturkler et al., SMRD: SURE-based robust MRI reconstruction with diffusion models, MICCAI 2023", "2310.01799"
    ),
    "tds": _arxiv(
        "Wu, Trippe, Naesseth, Blei, Cunningham, Practical and asymptotically exact conditional sampling in diffusion models, "
        "NeurIPS 2023",
        "2306.17775",
    ),
    "fps": Paper(
        "Dou and Song, Diffusion posterior sampling for linear inverse problem solving: a filtering perspective, ICLR 2024",
        "https://openreview.net/forum?id=tplXNcHZs1",
    ),
    "mcgdiff": _arxiv(
        "Cardoso et al., Monte Carlo guided diffusion for Bayesian linear inverse problems, ICLR 2024", "2308.07983"
    ),
    "ddsmc": _arxiv(
        "Kelvinius, Zhao, Lindsten, Solving linear-Gaussian Bayesian inverse problems with decoupled diffusion SMC, ICML 2025",
        "2502.06379",
    ),
    "noise2score": _arxiv(
        "Kim and Ye, Noise2Score: Tweedie's approach to self-supervised image denoising without clean images, NeurIPS 2021",
        "2106.07009",
    ),
    "r2d2": _arxiv(
        "Chung, Lee, Ye, MR image denoising and super-resolution using regularized reverse diffusion, "
        "IEEE Trans. Med. Imaging 42, 2023",
        "2203.12621",
    ),
    "ccdf": _arxiv(
        "Chung, Sim, Ye, Come-closer-diffuse-faster: accelerating conditional diffusion models for inverse problems, CVPR 2022",
        "2112.05146",
    ),
    # Uncertainty
    "risk-control": _arxiv(
        "Angelopoulos, Bates, Fisch, Lei, Schuster, Conformal risk control, ICLR 2024", "2208.02814"
    ),
    # Software
    "monai": _arxiv(
        "Cardoso et al., MONAI: an open-source framework for deep learning in healthcare, 2022", "2211.02701"
    ),
    "pytorch": _arxiv(
        "Paszke et al., PyTorch: an imperative style, high-performance deep learning library, NeurIPS 2019",
        "1912.01703",
    ),
}
"""Papers by short names."""

SOLVER_PAPERS: Mapping[str, Sequence[str]] = {
    "zero-filled": (),
    "cg-sense": ("cg-sense",),
    "wavelet": ("sparse-mri", "fista"),
    "tv": ("rof", "split-bregman"),
    "tv-fista": ("rof", "fista-tv"),
    "tv-pdhg": ("rof", "condat"),
    "low-rank": ("low-rank",),
    "nlinv": ("nlinv",),
    "fbp": ("kak-slaney",),
    "sirt": ("sirt",),
    "langevin": ("ncsn",),
    "ddpm": ("ddpm",),
    "ddim": ("ddim",),
    "pc": ("score-sde",),
    "heun": ("edm",),
    "dpmsolver": ("dpmsolver",),
    "scoremri": ("scoremri",),
    "scoremed": ("scoremed",),
    "ald": ("ald",),
    "ald-relative": ("ald",),
    "ilvr": ("ilvr",),
    "repaint": ("repaint",),
    "dps": ("dps",),
    "mcg": ("mcg",),
    "pigdm": ("pigdm",),
    "tmpd": ("tmpd", "mmps"),
    "blinddps": ("blinddps", "dps"),
    "gibbsddrm": ("gibbsddrm", "ddrm"),
    "ddrm": ("ddrm",),
    "ddnm": ("ddnm",),
    "ddnmplus": ("ddnm",),
    "mgdm": ("mgdm",),
    "dsg": ("dsg",),
    "lgd": ("lgd",),
    "reddiff": ("reddiff",),
    "dds": ("dds",),
    "diffpir": ("diffpir",),
    "daps": ("daps",),
    "daps-langevin": ("daps",),
    "pnpdm": ("pnpdm",),
    "sitcom": ("sitcom",),
    "smrd": ("smrd",),
    "tds": ("tds", "tmpd"),
    "tds-isotropic": ("tds",),
    "fps": ("fps",),
    "mcgdiff": ("mcgdiff",),
    "ddsmc": ("ddsmc",),
    "dds-3d": ("dds", "mbir"),
    "mbir": ("mbir",),
    "tweedie": ("noise2score",),
    "r2d2": ("r2d2",),
}
"""Short names of the papers of every solver; zero-filling needs none."""
