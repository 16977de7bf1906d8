"""Volumes in slabs: the whole image, what is kept of a run that was stopped, and limits of memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrecon.data.errors import InputError
from medrecon.posterior import run, sampling
from medrecon.problems import physics_of, problem
from medrecon.problems.base import Fit
from medrecon.reconstruction import plan
from medrecon.settings import SamplingSettings
from medrecon.slabs import Part, cut, memory_of

from .make.compare import relative_error
from .make.toys import Smooth, cartesian, columns, spec

SLABS = [range(0, 5), range(3, 8), range(6, 11)]


class Kept:
    """Parts in memory."""

    def __init__(self, **parts):
        self.parts, self.saved = dict(parts), []

    def load(self, index):
        return self.parts.get(index)

    def save(self, index, content):
        self.parts[index] = content
        self.saved.append(index)


def volume(slices=11, **physics):
    scan, _, maps = cartesian(slices=slices, mask=columns(), noise=0.02)
    kspace = scan.kspace * np.linspace(0.3, 2, slices, dtype=np.float32)[:, None, None, None]
    scan = replace(scan, kspace=kspace)
    return problem(scan, physics_of(scan, volume=True, maps=maps, noise_std=0.02, **physics))


def solve(one, solver="dds", parts=None, progress=None, **settings):
    prior = spec(objective=Smooth())
    planned = sampling(SamplingSettings(solver=solver, steps=5, **settings), prior)
    return run(one, prior, replace(planned, chunk=1), parts=parts, progress=progress)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    # Exact where a method acts slice by slice. Where step lengths are those of a slab, they differ from those of the volume.
    [("dds", 1e-5), ("ddnm", 1e-5), ("diffpir", 1e-5), ("cg-sense", 1e-5), ("tmpd", 0.05), ("dps", 0.1), ("tv", 0.02)],
)
@pytest.mark.parametrize("length", [None, 2.5])
def test_slabs_give_the_image_of_the_whole_volume(solver, tolerance, length):
    """Scale, noise level and random numbers are those of the whole volume."""
    settings = {} if solver in ("cg-sense", "tv") else {"z_correlation": length}
    whole, slabs = volume(), volume().with_slabs(SLABS)
    expected, found = solve(whole, solver, **settings), solve(slabs, solver, **settings)
    error = relative_error(found.image, expected.image)
    assert error < tolerance
    for name in ("relative_residual", "residual_over_noise"):
        assert found.record[name] == pytest.approx(expected.record[name], rel=max(1e-4, 4 * error))
    assert found.record["slabs"] == [[0, 4], [3, 7], [6, 10]]
    assert found.record["slices"] == expected.record["slices"] == list(range(11))


def test_samples_and_maps_of_slabs():
    several = {"samples": 3, "z_correlation": 1.0}
    expected, found = solve(volume(), **several), solve(volume().with_slabs(SLABS), **several)
    assert relative_error(found.samples, expected.samples) < 1e-5
    assert relative_error(found.uncertainty.spread, expected.uncertainty.spread) < 1e-3
    assert relative_error(found.uncertainty.null_spread, expected.uncertainty.null_spread) < 1e-3
    assert found.uncertainty.flags.shape == expected.uncertainty.flags.shape == (11, 36, 31)


def test_overlapping_slabs_fade_into_each_other():
    """Slabs with values 1, 3 and 7: linear ramps between them, and every slice counted once in the fits."""
    one = volume().with_slabs(SLABS)
    joined = one.join([value * torch.ones(1, 5, 1, 1) for value in (1.0, 3.0, 7.0)]).flatten()
    third = 2 / 3
    assert torch.allclose(joined, torch.tensor([1, 1, 1, 1 + third, 1 + 2 * third, 3, 3 + 4 / 3, 3 + 8 / 3, 7, 7, 7]))
    own = [list(slab)[one.own(slice(k, k + 1))] for k, slab in enumerate(SLABS)]
    assert [i for part in own for i in part] == list(range(11))
    thick = volume().with_slabs([range(0, 6), range(2, 9), range(4, 11)])  # the first and the last overlap
    assert torch.allclose(
        sum(_placed(w, s) for w, s in zip(thick._weights(), thick.slabs, strict=True)), torch.ones(11)
    )


def _placed(weights, slab):
    out = torch.zeros(11)
    out[slab.start : slab.stop] = weights
    return out


def test_a_stopped_run_goes_on_where_it_was():
    """Finished slabs are not computed again, the image is the same to the last bit, and progress counts all slabs."""
    slabs = volume().with_slabs(SLABS)
    expected = solve(slabs, samples=2, z_correlation=1.0)
    kept = Kept()

    class StoppedError(Exception):
        pass

    def stop(done, total):
        if done == 2 * 5 + 3:  # in the second slab: two samples of five steps, then three steps
            raise StoppedError

    with pytest.raises(StoppedError):
        solve(slabs, samples=2, z_correlation=1.0, parts=kept, progress=stop)
    assert kept.saved == [0]
    counted = []
    found = solve(slabs, samples=2, z_correlation=1.0, parts=kept, progress=lambda *step: counted.append(step))
    assert kept.saved == [0, 1, 2]
    assert counted[0] == (11, 30)
    assert counted[-1] == (30, 30)
    assert np.array_equal(found.image, expected.image)
    assert np.array_equal(found.samples, expected.samples)
    assert np.array_equal(found.uncertainty.null_spread, expected.uncertainty.null_spread)
    names = (
        "relative_residual",
        "residual_over_noise",
        "network_evaluations",
        "uncertainty",
        "maps_source",
        "warnings",
    )
    assert {name: found.record[name] for name in names} == {name: expected.record[name] for name in names}
    again = solve(slabs, samples=2, z_correlation=1.0, parts=kept)  # all slabs were finished
    assert np.array_equal(again.image, expected.image)
    assert again.record["maps_source"] == expected.record["maps_source"]
    assert kept.saved == [0, 1, 2]


def test_a_damaged_part_is_computed_again():
    slabs, kept = volume().with_slabs(SLABS), Kept()
    expected = solve(slabs, parts=kept)
    content = kept.parts[1]
    for damaged in (b"", content[:-100], content[:200] + bytes(50) + content[250:], b"PK\x03\x04" + bytes(1000)):
        kept.parts[1], kept.saved = damaged, []
        assert np.array_equal(solve(slabs, parts=kept).image, expected.image)
        assert kept.saved == [1]


def test_a_part_keeps_its_numbers():
    part = Part(torch.rand(2, 3, 4, 5), [Fit(0.1, 2.5, 7)], [], (1e-30, 2.0, float("inf")), 3, 0.25, {0.1: 1.5})
    found = Part.from_bytes(part.to_bytes())
    assert torch.equal(found.images, part.images)
    assert (found.fits, found.sums, found.evaluations, found.levels) == (part.fits, part.sums, 3, {0.1: 1.5})


def test_memory_decides_on_slabs():
    one = volume(slices=40)
    need = memory_of(one, 1)
    assert cut(one, need.of(40) / 1e9 + 1e-6, 1, 0.0) is one
    found = cut(one, need.of(15.5) / 1e9, 1, 0.0)
    assert max(map(len, found.slabs)) <= 15
    assert found.slabs[0].start == 0 and found.slabs[-1].stop == 40
    shared = [one.stop - after.start for one, after in zip(found.slabs, found.slabs[1:], strict=False)]
    assert min(shared) >= 4
    coupled = cut(one, need.of(25.5) / 1e9, 1, 4.0)
    assert coupled.slabs[0].stop - coupled.slabs[1].start >= 8
    assert memory_of(one, 10).of(40) > need.of(40)
    with pytest.raises(InputError, match=r"slabs of 9 slices need about .* allow more \(--max-memory"):
        cut(one, need.of(8) / 1e9, 1, 0.0)
    with pytest.raises(InputError, match="too thin to be cut"):
        cut(volume(slices=3), 0.1, 1, 0.0)


@pytest.mark.parametrize("n", range(10, 60, 7))
@pytest.mark.parametrize("size", [9, 10, 13, 30])
def test_slabs_of_every_length_cover_the_volume(n, size):
    one = volume(slices=n)
    found = cut(one, memory_of(one, 1).of(size + 0.5) / 1e9, 1, 0.0)
    covered = [i for slab in found.slabs for i in slab]
    assert sorted(set(covered)) == list(range(n))
    assert all(len(slab) <= max(size, 9) for slab in found.slabs) or len(found.slabs) == 1
    total = torch.zeros(n)
    for weights, slab in zip(found._weights(), found.slabs, strict=True):
        total[slab.start : slab.stop] += weights
    assert torch.allclose(total, torch.ones(n))
    own = [i for k, slab in enumerate(found.slabs) for i in list(slab)[found.own(slice(k, k + 1))]]
    assert own == list(range(n))


def test_max_memory_is_an_option_of_volumes():
    scan, _, maps = cartesian(slices=3, mask=columns(), noise=0.02)
    with pytest.raises(InputError, match="max_memory is for volumes"):
        plan(scan, bundle=spec(), maps=maps, max_memory=2.0)
    for wrong in (0.0, float("nan"), -1.0):
        with pytest.raises(InputError, match="max_memory must be a number"):
            plan(scan, bundle=spec(), maps=maps, max_memory=wrong, volume=True)
    assert plan(scan, bundle=spec(), maps=maps, max_memory=8.0, volume=True).problem.n_items == 1


def test_a_volume_whose_data_cross_slices_is_not_cut():
    from medrecon.data.scan import Sinogram

    angles = np.arange(20) * np.pi / 10
    scan = Sinogram(
        path="cone.npz", format="toy", sinogram=np.ones((1, 20, 40, 40), np.float32), angles=angles, detector_spacing=2.0,
        beam="cone", source_to_axis=200.0, source_to_detector=400.0,
    )  # fmt: skip
    with pytest.raises(InputError, match=r"cone\.npz: the volume needs about .* cannot be cut into slabs"):
        plan(scan, bundle=spec("attenuation"), max_memory=0.5, image_size=32)
