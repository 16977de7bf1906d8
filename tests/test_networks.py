"""Networks: their start, and what one image has to do with another."""

import pytest
import torch

from medrecon.networks import ResidualUNet


def test_network_starts_as_zero_and_blocks_as_identity():
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1))
    x = torch.randn(2, 2, 16, 8)
    assert torch.equal(network(x, torch.tensor([-100.0, 200.0])), torch.zeros_like(x))
    assert torch.equal(network.encoder[0][0](x.new_ones(1, 8, 4, 4), x.new_ones(1, 128)), x.new_ones(1, 8, 4, 4))
    with pytest.raises(ValueError, match="multiples of 4"):
        network(torch.zeros(1, 2, 10, 8))


def test_network_items_are_independent_and_know_the_noise_level():
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1)).double()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(3, 2, 16, 8, dtype=torch.float64), torch.tensor([-100.0, 0.0, 200.0], dtype=torch.float64)
    together = network(x, t)
    for i in range(3):
        assert torch.allclose(together[i : i + 1], network(x[i : i + 1], t[i : i + 1]), atol=1e-12)
    assert not torch.allclose(network(x, t), network(x, t + 20))
