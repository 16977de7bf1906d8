"""The residual U-Net: what its parts compute, not how well it denoises."""

import pytest
import torch

from medrecon.networks import ResidualUNet, _SelfAttention


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


def network(**changes):
    """A small one with every weight at random, since many start at zero."""
    torch.manual_seed(0)
    net = ResidualUNet(**{"channels": (8, 12, 8), "blocks": (1, 1, 1), "heads": 2, "num_class_embeds": 3, **changes})
    for weight in net.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return net.double().eval()


def test_attention_is_the_softmax_of_scaled_products():
    torch.manual_seed(0)
    layer = _SelfAttention(6, heads=2).double()
    torch.nn.init.normal_(layer.out.weight)
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    tokens = x.flatten(2).mT
    normal = (tokens - tokens.mean(-1, keepdim=True)) / (tokens.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    q, k, v = (normal @ part.T for part in layer.qkv.weight.split(6))
    seen = [
        (q[..., h] @ k[..., h].mT / 3**0.5).softmax(-1) @ v[..., h] for h in (slice(0, 3), slice(3, 6))
    ]  # two heads of three channels
    expected = x + (torch.cat(seen, -1) @ layer.out.weight.T).mT.unflatten(-1, (3, 5))
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_attention_reaches_the_whole_image():
    """A pixel far outside the convolutions' reach moves the answer, with attention only."""
    x = torch.randn(1, 2, 8, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    level = torch.tensor([100.0], dtype=torch.float64)
    reach = []
    for heads in (0, 2):
        (grad,) = torch.autograd.grad(network(heads=heads)(x, level)[0, 0, 4, 4], x)
        reach.append(float(grad[..., -8:].abs().max()))
    assert reach[0] == 0
    assert reach[1] > 0


def test_attention_added_to_a_trained_network_changes_nothing_yet():
    plain = network(heads=0)
    grown = ResidualUNet(channels=(8, 12, 8), blocks=(1, 1, 1), heads=2, num_class_embeds=3).double()
    missing = grown.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert all(key.startswith("attention") for key in missing)
    x, level = torch.randn(2, 2, 24, 16, dtype=torch.float64), torch.tensor([10.0, 500.0], dtype=torch.float64)
    assert torch.equal(grown(x, level), plain(x, level))


@pytest.mark.parametrize("shape", [(16, 24), (8, 40)])
def test_a_batch_equals_its_items(shape):
    net = network()
    x, level = torch.randn(3, 2, *shape, dtype=torch.float64), torch.tensor([1.0, 300.0, 900.0], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    alone = [net(x[i : i + 1], level[i : i + 1], class_labels=labels[i : i + 1]) for i in range(3)]
    assert torch.allclose(net(x, level, class_labels=labels), torch.cat(alone), atol=1e-11)
    assert torch.allclose(net(x[2:], level[2:]), alone[2], atol=1e-11)  # no label is the last label
    assert not torch.allclose(net(x[:1], level[:1]), alone[0], atol=1e-3)


def test_heads_must_divide_the_coarsest_channels():
    with pytest.raises(ValueError, match="divide"):
        ResidualUNet(channels=(8, 12), blocks=(1, 1), heads=5)
