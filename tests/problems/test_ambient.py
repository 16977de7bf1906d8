"""Priors that were trained on undersampled k-space, through the one path: they see images as the coils of the scan do."""

from dataclasses import dataclass

import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.training.undersampled import Ambient

from ..make.toys import cartesian, columns, images, picture, solve, spec


@dataclass(frozen=True, kw_only=True)
class Recorded(Ambient):
    """Keeps the maps for which it makes a prior, which shrinks images."""

    seen: tuple[list, ...] = ([],)

    def prior(self, network, multiple=16, dtype=None, maps=None, mask=None):
        def mean(x, sigma):
            self.seen[0].append((maps, x.clone(), mask))
            return 0.5 * x

        return mean


def test_the_prior_gets_the_maps_of_its_slices():
    """ESPIRiT maps of every slice, at every level; images are not mirrored or shifted, which maps would not follow."""
    scan, _, true_maps = cartesian(slices=2, mask=columns())
    objective = Recorded(seen=([],))
    symmetric = spec(objective=objective, symmetries={"flip": [-1], "shift": 16, "phase": True})
    solve(scan, "dds", symmetric, chunk=2, steps=4)
    assert len(objective.seen[0]) == 4
    maps = objective.seen[0][0][0]
    assert maps.shape == (2, 4, *scan.kspace.shape[2:])
    support = maps.abs().sum(1) > 0
    # Up to a phase that the coils share: relative maps are those of the scan.
    found = (maps * maps[:, :1].conj())[support[:, None].expand_as(maps)]
    true = torch.from_numpy(true_maps * true_maps[:1].conj())[None].expand_as(maps)
    assert (found - true[support[:, None].expand_as(maps)]).abs().mean() < 0.05
    assert torch.equal(objective.seen[0][0][2][0, 0, 0], torch.from_numpy(columns()[0]))
    levels = [x for _, x, _ in objective.seen[0]]
    plain = Recorded(seen=([],))
    solve(scan, "dds", spec(objective=plain), chunk=2, steps=4)
    for x, other in zip(levels, (x for _, x, _ in plain.seen[0]), strict=True):
        assert torch.allclose(x.square().sum(1), other.square().sum(1), rtol=1e-3, atol=1e-4)  # turned in phase alone


def test_what_has_no_maps_refuses_it():
    with pytest.raises(InputError, match=r"trained on undersampled k-space \(ambient\), so it needs slices of k-space"):
        solve(
            images(picture(noise=0.1).astype("complex64")),
            "dds",
            spec(objective=Ambient()),
            {"noise_std": 0.1},
            steps=2,
        )


def test_another_number_of_coils_refuses_it():
    scan, _, _ = cartesian(coils=1, slices=1, mask=columns())
    with pytest.raises(
        InputError, match=r"toy\.h5: has one coil, but the prior of bundle toy was trained on scans of several coils"
    ):
        solve(scan, "dds", spec(objective=Recorded(several_coils=True)), steps=2)
    solve(scan, "dds", spec(objective=Recorded(several_coils=False)), steps=2)


def test_one_coil_has_maps_of_ones():
    scan, _, _ = cartesian(coils=1, slices=1, mask=columns())
    objective = Recorded(seen=([],))
    solve(scan, "dds", spec(objective=objective), steps=2)
    assert bool((objective.seen[0][0][0] == 1).all())
