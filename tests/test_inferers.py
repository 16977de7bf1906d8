"""Inferers against the priors that they wrap."""

import torch

from medrecon.networks import ResidualUNet
from medrecon.posterior import network_prior
from medrecon.priors import equivariant
from medrecon.training.objectives import EDM
from tests.make.priors import toy_prior


def random_network(channels):
    torch.manual_seed(0)
    network = ResidualUNet(in_channels=channels, channels=(8,), blocks=(1,))
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return network.requires_grad_(False)


def test_inferer_by_channel_is_the_one_channel_prior_on_each():
    """The prior of an inferer by channel, with a one-channel network, acts on two channels independently."""
    network = random_network(1)
    x = torch.randn(2, 2, 8, 8)
    both, counters = network_prior(toy_prior(images="magnitude", channels=1), network, (2, 8, 8), None)
    single = EDM().prior(network)(x[:, 1:], 0.3)
    assert torch.allclose(both(x, 0.3)[:, 1:], single, atol=1e-6)
    assert [counter.calls for counter in counters] == [4]


def test_inferer_sees_the_symmetries_of_its_prior():
    network = random_network(2)
    symmetries = {"flip": [-1], "shift": 4, "phase": True}
    x = torch.randn(2, 2, 8, 8)
    plain, _ = network_prior(toy_prior(), network, (2, 8, 8), None)
    turned, _ = network_prior(toy_prior(symmetries=symmetries), network, (2, 8, 8), None)
    assert torch.equal(turned(x, 0.3), equivariant(plain, **symmetries)(x, 0.3))
    assert not torch.allclose(turned(x, 0.3), plain(x, 0.3), atol=1e-3)
