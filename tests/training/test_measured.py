"""Objectives of measurements by name, and their trainer."""

from types import MappingProxyType

import numpy as np
import pytest
import torch
from monai.data import Dataset

from medrecon.data.errors import InputError
from medrecon.engines import MeasuredPrepareBatch
from medrecon.inferers import AutocastInferer, MeasuredInferer
from medrecon.training import measured
from medrecon.training.corruption import PoissonNoise
from medrecon.training.measured import MEASURED, measured_objective
from medrecon.training.objectives import EDM, MeasuredObjective
from medrecon.workflows import Batches, Learner, noise_levels, resume, simulated, trainer, validator
from tests.make.images import blobs
from tests.make.measured import Factor, Noisy, Pairs

CPU = torch.device("cpu")


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(measured, "MEASURED", MappingProxyType({"pairs": "tests.make.measured:Pairs"}))


@pytest.mark.parametrize("name", MEASURED)
def test_every_name_gives_an_objective(name):
    assert isinstance(measured_objective(name), MeasuredObjective)


def test_settings_reach_the_objective(registered):
    assert measured_objective("pairs", repeats=3) == Pairs(repeats=3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("pair", {}, "no objective 'pair'; did you mean 'pairs'"),
        ("zzz", {}, "no objective 'zzz'; choose one of pairs"),
        (7, {}, "no objective 7"),
        (["pairs"], {}, "no objective"),
        ("pairs", {"repeat": 3}, "pairs: has no setting 'repeat'; it has repeats, weight"),
        ("pairs", {"repeats": 0}, "pairs: repeats must be at least 1; got 0"),
        ("pairs", {"repeats": "x"}, "pairs: "),
    ],
)
def test_errors_name_what_is_wrong(registered, name, settings, message):
    with pytest.raises(InputError, match=message):
        measured_objective(name, **settings)


def test_a_family_is_chosen_by_name():
    """As plain data, so that a command line can; the training takes the level from the data."""
    assert isinstance(measured_objective("noise2score", family="poisson").family, PoissonNoise)
    with pytest.raises(InputError, match="noise2score: noise must be one of gaussian, poisson, gamma; got 'rician'"):
        measured_objective("noise2score", family="rician")


def test_the_two_kinds_of_objectives_are_told_apart():
    assert isinstance(Pairs(), MeasuredObjective) and not isinstance(EDM(), MeasuredObjective)


# Data


def test_slices_become_noisy_data_with_the_truth_for_validation_alone():
    """Noise of 10 % of the unit, once; what is not there is refused; the levels are those of the rows."""
    rows = [{"image": (150 * np.abs(blobs((64, 60), k))).astype(np.uint8)[None], "subject": "a"} for k in range(3)]
    made = simulated(rows[:2], rows[2:], level=0.1, seed=3)
    assert made.objective == "noise2score"
    assert all("clean" not in row for row in made.train) and "clean" in made.val[0]
    levels = noise_levels(made, "gaussian", (1.0, 1.0))
    assert levels["family"] == "gaussian" and levels["least"] < 0.1 < levels["most"] < 0.15
    for name, needed in (("supervised", "clean"), ("noise2noise", "second"), ("ambient", "kspace, maps, mask")):
        with pytest.raises(InputError, match=f"needs {needed}, which noisy images do not have"):
            simulated(rows, rows, objective=name)


def test_data_are_given_by_name_in_single_precision():
    rows = {
        "image": torch.ones(2, 1, 3, 3, dtype=torch.float16), "kspace": torch.ones(2, 4, 3, 3, dtype=torch.complex128),
        "mask": torch.tensor([True, False]), "noise_std": [0.1, 0.2], "subject": ["a", "b"],
    }  # fmt: skip
    data, target, args, named = MeasuredPrepareBatch(["noise_std", "image", "kspace", "mask"])(rows)
    assert {name: value.dtype for name, value in data.items()} == {
        "image": torch.float32, "kspace": torch.complex64, "mask": torch.float32, "noise_std": torch.float32,
    }  # fmt: skip
    assert torch.equal(target, torch.zeros(2)) and args == () and named == {}
    doubled = MeasuredPrepareBatch(["image"], lambda d: {name: 2 * value for name, value in d.items()})
    assert torch.equal(doubled(rows)[0]["image"], 2 * torch.ones(2, 1, 3, 3))
    with pytest.raises(InputError, match="the objective needs second, which the data lack; they have image, kspace"):
        MeasuredPrepareBatch(["image", "second"])(rows)


# The trainer


def pairs_of(n, sigma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean, first, second = (torch.randn(n, 1, 4, 4, generator=generator) for _ in range(3))
    return [
        {"image": c + sigma * a, "second": c + sigma * b, "clean": c, "noise_std": sigma}
        for c, a, b in zip(clean, first, second, strict=True)
    ]


def run(folder, objective, rows, epochs=4, network=None, **settings):
    torch.manual_seed(0)
    settings = {"learning_rate": 0.1, "average_decay": 0.95, **settings}
    learner = Learner(network or Factor(), objective, CPU, folder, **settings)
    val = validator(learner, Dataset(rows))
    batches = Batches(dataset=Dataset(rows), augment=None, size=64, per_epoch=50)
    engine = trainer(learner, learner.model, batches, val, max_epochs=epochs, val_interval=1)
    resume(engine, learner)
    engine.run()
    return learner, engine, val


@pytest.mark.parametrize("objective", [Pairs(), Noisy()])
def test_the_trained_network_is_the_minimiser(tmp_path, objective):
    """For unit signals in noise of 0.5 the best factor is 1 / (1 + 0.25); of 400 images of 16 pixels it is known to 2 %."""
    rows = pairs_of(400, 0.5)
    learner, _, val = run(tmp_path, objective, rows)
    assert float(learner.average.module.a.detach()) == pytest.approx(0.8, abs=0.03)
    assert learner.best.metric >= val.state.metrics["psnr"] - 1e-9


def test_validation_is_the_psnr_against_the_truth_if_it_is_known(tmp_path):
    rows = pairs_of(50, 0.5)
    learner, _, val = run(tmp_path, Pairs(), rows, epochs=1)
    a = learner.average.module.a.detach()
    error = torch.stack([(a * row["image"] - row["clean"]).square().mean() for row in rows])
    assert val.state.metrics["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=1e-3)


def test_validation_is_the_held_out_loss_otherwise_with_the_same_random_numbers(tmp_path):
    rows = [{"image": row["image"], "noise_std": 0.5} for row in pairs_of(30, 0.5)]
    learner = Learner(Factor(0.7), Noisy(), CPU, tmp_path)
    val = validator(learner, Dataset(rows))
    values = []
    for _ in range(2):
        val.run()
        values.append(val.state.metrics["negative_loss"])
    assert values[0] == values[1]
    torch.manual_seed(0)
    first = {"image": torch.stack([row["image"] for row in rows[:10]]), "noise_std": torch.full((10,), 0.5)}
    expected = Noisy().loss(learner.average.module, first).detach()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.allclose(MeasuredInferer(Noisy(), seed=0)(first, learner.average), expected)
    assert torch.equal(torch.get_rng_state(), state)  # the training goes on as without it
    # The mean over all items: for a x the divergence is a probe^2, so its expectation is 2 sigma^2 a.
    image = torch.stack([row["image"] for row in rows])
    exact = (0.3 * image).square().mean() + 2 * 0.25 * 0.7
    assert -values[0] == pytest.approx(float(exact), abs=0.05)  # of 480 probes: 0.35 * sqrt(2 / 480) = 0.02


def test_a_run_is_continued(tmp_path):
    rows = pairs_of(60, 0.5)
    first, _, _ = run(tmp_path, Pairs(), rows, epochs=1)
    second, engine, _ = run(tmp_path, Pairs(), rows, epochs=2)
    assert engine.state.iteration == 100 and second.steps() == 100
    assert second.best.metric >= first.best.metric


def test_rows_of_several_shapes_train_one_network(tmp_path):
    rows = pairs_of(40, 0.5)
    rows += [{**row, **{k: row[k][..., :3] for k in ("image", "second", "clean")}} for row in pairs_of(40, 0.5, seed=1)]
    learner, _, _ = run(tmp_path, Pairs(), rows)
    assert float(learner.average.module.a.detach()) == pytest.approx(0.8, abs=0.06)


def test_the_network_alone_runs_under_autocast():
    class Seen(Factor):
        def forward(self, x, timesteps):
            self.dtype = torch.nn.functional.conv2d(x, torch.ones(1, 1, 1, 1)).dtype
            return super().forward(x, timesteps)

    class Spy(Pairs):
        def loss(self, network, data):
            out = network(data["image"], torch.zeros(2))
            assert out.dtype == torch.float32
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            return out.flatten(1).mean(1)

    network, data = Seen(1.0), {"image": torch.ones(2, 1, 4, 4), "second": torch.ones(2, 1, 4, 4)}
    MeasuredInferer(Spy(), torch.bfloat16)(data, network)
    assert network.dtype == torch.bfloat16
    MeasuredInferer(Noisy(), torch.bfloat16)({**data, "noise_std": torch.ones(2)}, network)
    assert network.dtype == torch.float32  # the objective asks for it
    assert AutocastInferer(None).dtype is None
