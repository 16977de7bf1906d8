"""Training targets against the wrappers and networks that they belong to."""

import math

import pytest
import torch
from torch import nn

from medrecon.training.objectives import DDPM, EDM, RectifiedFlow, objective, stratified

from ..make.priors import AsEDM, gaussian, noisy


class Says(nn.Module):
    """A network that expects one input, and returns a fixed answer."""

    def __init__(self, inputs, answer):
        super().__init__()
        self.inputs, self.answer = inputs, answer

    def forward(self, x, timesteps):
        assert torch.allclose(x, self.inputs, rtol=1e-9)
        return self.answer


@pytest.mark.parametrize("kind", [EDM(sigma_data=0.4), DDPM(), RectifiedFlow()], ids=["edm", "ddpm", "flow"])
def test_target_and_wrapper_are_inverse(kind):
    """A network that says its target exactly is a prior that returns the clean image exactly, at any level."""
    x0, noise = noisy(seed=5), noisy(seed=6)
    for u in (0.03, 0.5, 0.97):
        pair = kind.pair(x0, torch.full((3,), u, dtype=torch.float64), noise)
        if isinstance(kind, EDM):
            sigma = (4 * pair.timesteps / 250).exp()
        elif isinstance(kind, DDPM):
            kept = kind.alphas_cumprod[pair.timesteps.long()]
            sigma = ((1 - kept) / kept).sqrt()
        else:
            sigma = pair.timesteps / 1000 / (1 - pair.timesteps / 1000)
        x = x0 + sigma.view(-1, 1, 1, 1) * noise
        prior = kind.prior(Says(pair.inputs, pair.target), multiple=1)
        assert torch.allclose(prior(x, sigma), x0, atol=1e-9)


def test_edm_regression_is_solved_by_the_exact_network():
    """The target of training is what a perfect denoiser's F answers on average: residuals have zero correlation with it."""
    prior = gaussian((4,))
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    root = prior.modes * prior.variances.clamp(min=0).sqrt()
    x0 = prior.mean + torch.randn(n, 4, generator=generator, dtype=torch.float64) @ root.T
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    pair = EDM(sigma_data=0.4, log_mean=-0.7, log_std=0.5).pair(x0, u, noise)
    answer = AsEDM(prior, 0.4)(pair.inputs, pair.timesteps)
    residual = pair.target - answer
    # Orthogonality of the conditional mean: standard error 1 / sqrt(n) = 0.0022, five of them.
    correlation = (residual * answer).mean(0) / (residual.std(0) * answer.square().mean(0).sqrt())
    assert correlation.abs().max() < 5 / n**0.5


@pytest.mark.parametrize("sigma", [0.05, 0.4, 6.0])
def test_preconditioning_keeps_input_and_target_at_unit_variance(sigma):
    """What EDM's factors are for (Karras et al., appendix B.6), on data of standard deviation 0.4."""
    generator = torch.Generator().manual_seed(0)
    n = 400_000
    x0, noise = 0.4 * torch.randn(2, n, generator=generator, dtype=torch.float64) / torch.tensor([[1.0], [0.4]])
    at = EDM(sigma_data=0.4, log_mean=math.log(sigma), log_std=0.0)
    pair = at.pair(x0, torch.full((n,), 0.5, dtype=torch.float64), noise)
    for part in (pair.inputs, pair.target):
        assert abs(float(part.var()) - 1) < 5 * (2 / n) ** 0.5
    # Nothing linear is left for the network to learn.
    assert abs(float((pair.inputs * pair.target).mean())) < 5 / n**0.5
    assert torch.allclose(pair.timesteps, torch.tensor(250 * math.log(sigma) / 4, dtype=torch.float64))


def test_levels_follow_their_laws():
    n = 100_000
    u = stratified(n).double()
    bins = (1000 * stratified(1000)).floor().sort().values
    assert torch.equal(bins, torch.arange(1000.0))  # one in each
    zero = torch.zeros(n, 1, dtype=torch.float64)
    levels = EDM(log_mean=-1.0, log_std=1.2).pair(zero, u, zero).timesteps * 4 / 250
    assert abs(float(levels.mean()) + 1.0) < 0.01
    assert abs(float(levels.std()) - 1.2) < 0.01
    steps = DDPM().pair(zero, u, zero).timesteps
    assert torch.equal(steps.unique(), torch.arange(1000, dtype=torch.float64))
    tau = RectifiedFlow(mean=-0.5, std=1.2).pair(zero, u, zero).timesteps / 1000
    assert abs(float(tau.logit().mean()) + 0.5) < 0.01
    with pytest.raises(ValueError, match="parameterization must be one of edm, ddpm, flow"):
        objective("vp")


def test_ddpm_has_monais_chain():
    from monai.networks.schedulers import DDPMScheduler

    assert torch.allclose(
        DDPM().alphas_cumprod.float(), DDPMScheduler(num_train_timesteps=1000).alphas_cumprod, rtol=1e-4
    )
