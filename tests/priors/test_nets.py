"""Every wrapper round one exact Gaussian must give back that Gaussian's posterior mean."""

import pytest
import torch
from torch import nn

from medrecon.priors import Counted, EDMNet, EpsNet, FlowNet, guided, with_vjp
from medrecon.priors.nets import Labelled, precondition

from ..make.priors import AsEDM, AsEps, AsFlow, gaussian, noisy

ABAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
WRAPPERS = {
    "EDMNet": lambda prior: EDMNet(AsEDM(prior, 0.4), 0.4, multiple=1),
    "EpsNet": lambda prior: EpsNet(AsEps(prior, ABAR), ABAR, multiple=1),
    "FlowNet": lambda prior: FlowNet(AsFlow(prior, 1), multiple=1),
    "FlowNet, MONAI's sign": lambda prior: FlowNet(AsFlow(prior, -1), sign=-1, multiple=1),
    "guided by itself": lambda prior: guided(prior, prior, 3.0),
    "Counted": Counted,
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("sigma", [0.02, 0.7, 30.0])
def test_wrapper_gives_back_the_gaussian(wrap, sigma):
    prior, x = gaussian(), noisy()
    assert torch.allclose(wrap(prior)(sigma * x, sigma), prior(sigma * x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_one_level_per_item_equals_items_alone(wrap):
    prior, x = wrap(gaussian()), noisy()
    sigma = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    alone = torch.cat([prior(x[i : i + 1], float(sigma[i])) for i in range(3)])
    assert torch.allclose(prior(x, sigma), alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_vjp_against_finite_differences(wrap):
    prior, x = wrap(gaussian()), noisy()
    v, u, h = noisy(seed=2), noisy(seed=3), 1e-5
    with torch.no_grad():
        x0, vjp = with_vjp(prior, x, 0.6)
        difference = (prior(x + h * u, 0.6) - prior(x - h * u, 0.6)) / (2 * h)
    assert torch.allclose(x0, prior(x, 0.6), rtol=1e-12)
    # The wrappers are linear in x, so central differences carry rounding only: 1e-16 / h.
    for _ in range(2):
        assert torch.allclose((vjp(v) * u).sum(), (v * difference).sum(), rtol=1e-7)


@pytest.mark.parametrize("shape", [(2, 30, 33), (2, 8, 8), (1, 5, 7, 9)])
def test_padding_is_seen_by_the_network_alone(shape):
    """With a network that returns its input: sides are padded to a multiple, and the image is neither cropped nor shifted."""
    sides = []

    class Echo(nn.Module):
        def forward(self, x, timesteps):
            sides.append(x.shape[2:])
            return x

    x = noisy(shape, 2)
    out = EDMNet(Echo(), 0.5, multiple=8)(x, 0.3)
    assert all(n % 8 == 0 for n in sides[0])
    c = precondition(torch.tensor(0.3, dtype=torch.float64), 0.5)
    assert torch.allclose(out, (c.skip + c.out * c.input) * x)


def test_bfloat16_is_for_the_network_alone():
    seen = {}

    class Spy(nn.Conv2d):
        def forward(self, x, timesteps):
            out = super().forward(x)
            seen["inside"] = out.dtype
            return out

    prior = EDMNet(Spy(2, 2, 3, padding=1), 0.5, dtype=torch.bfloat16)
    assert prior(torch.zeros(1, 2, 8, 8), 0.3).dtype == torch.float32
    assert seen["inside"] == torch.bfloat16


def test_a_labelled_network_is_told_its_label():
    class Echo(nn.Module):
        def forward(self, x, timesteps, class_labels):
            return class_labels.view(-1, 1, 1).expand_as(x).to(x.dtype)

    assert torch.equal(Labelled(Echo(), 3)(torch.zeros(2, 1, 4), torch.zeros(2)), torch.full((2, 1, 4), 3.0))


def test_monai_network_as_eps_prior():
    from monai.networks.nets import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=2, out_channels=2, channels=(8, 16), attention_levels=(False, False), num_res_blocks=1,
        norm_num_groups=8,
    ).eval()  # fmt: skip
    for p in network.parameters():
        nn.init.normal_(p, std=0.1)  # MONAI starts the last layer at zero
    schedule = DDPMScheduler(num_train_timesteps=1000)
    prior = EpsNet(network, schedule.alphas_cumprod, multiple=2)
    x = noisy((2, 7, 9), 2).float()
    # At a level of the chain the wrapper must be DDPM's own estimate of x0.
    t, kept = 400, schedule.alphas_cumprod[400]
    sigma = float(((1 - kept) / kept).sqrt())
    with torch.no_grad():
        padded = nn.functional.pad(x * kept.sqrt(), (0, 1, 0, 1))
        noise = network(padded, torch.tensor([t, t]))[..., :7, :9]
        expected = (x * kept.sqrt() - (1 - kept).sqrt() * noise) / kept.sqrt()
        assert torch.allclose(prior(x, sigma), expected, atol=1e-3)  # float32 timestep of 400 +- 1e-5
