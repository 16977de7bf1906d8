"""Training as users run it: killed, continued, limited, on several processes; and its parts."""

import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from ignite.engine import Engine, Events

from medrecon.bundle import find_bundle, load_prior, load_weights
from medrecon.data.errors import InputError
from medrecon.engines import DenoisingPrepareBatch, NoisyPrepareBatch, Overviews
from medrecon.handlers import (
    KeepBest,
    SampleSheet,
    SheetSettings,
    WarmupCosine,
    averaged,
    checkpoint,
    denoising_metrics,
    start_from,
)
from medrecon.inferers import AutocastInferer
from medrecon.monai_bundle import load_config
from medrecon.networks import ResidualUNet
from medrecon.training.augment import Augment
from medrecon.training.objectives import EDM, objective
from tests.make.images import write_slices

# The sheet of samples at its full size would cost more than the training.
SMALL = (
    "--crop", 32, "--val_crop", 48, "--batch_size", 2, "--iterations_per_epoch", 3, "--val_interval", 1,
    "--sheet_interval", 100, "--train::trainer::sheet::shape", [2, 64, 64], "--train::trainer::sheet::n_steps", 5,
)  # fmt: skip


@pytest.fixture
def bundle(tmp_path):
    """A copy of the bundle, tiny data, and a function that gives the command line of a training run."""
    for name in ("brain_slices_256", "brain_corsag_256", "brain_slices_256_val"):
        write_slices(tmp_path / f"{name}.npz")
    root = tmp_path / "b"
    shutil.copytree(find_bundle("brain_mri"), root, ignore=shutil.ignore_patterns("models", "checkpoints"))
    text = (root / "configs" / "prior.yaml").read_text()
    for key, value in {"channels": "[8, 8, 8]", "blocks": "[1, 1, 1]", "heads": "2"}.items():
        text = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", text, flags=re.MULTILINE)
    (root / "configs" / "prior.yaml").write_text(text)

    def command(*more, configs=("train.yaml",), start=(sys.executable, "-m", "monai.bundle")):
        files = str([str(root / "configs" / name) for name in configs])
        given = ("run", "--config_file", files, "--bundle_root", root, "--dataset_dir", tmp_path, *SMALL, *more)
        return [*start, *map(str, given)]

    return root, command


def train(command, cwd):
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout


def reached(root):
    return torch.load(root / "checkpoints" / "latest.pt", weights_only=True)["trainer"]["iteration"]


def test_a_killed_run_continues_and_ends_with_the_same_step_count(bundle, tmp_path):
    root, command = bundle
    endless = subprocess.Popen(command("--max_epochs", 100000), cwd=tmp_path, stdout=subprocess.DEVNULL)
    latest = root / "checkpoints" / "latest.pt"
    deadline = time.monotonic() + 120
    while not latest.is_file() and endless.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    endless.send_signal(signal.SIGKILL)
    endless.wait()
    left = reached(root)
    assert left >= 3
    epochs = left // 3 + 2
    train(command("--max_epochs", epochs, "--sheet_interval", epochs), tmp_path)
    assert reached(root) == 3 * epochs
    # What is exported is the best average, in half precision, and the metadata name it.
    best = torch.load(root / "checkpoints" / "best.pt", weights_only=True)
    network = load_weights(ResidualUNet(channels=(8, 8, 8), blocks=(1, 1, 1), heads=2, num_class_embeds=5), root)
    average = {k.removeprefix("module."): v for k, v in best["average"].items() if k != "n_averaged"}
    for key, value in network.state_dict().items():
        assert torch.equal(value, average[key].half().float())
    assert (root / "checkpoints" / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert list((root / "checkpoints").glob("events.out.tfevents.*"))


def test_max_minutes_ends_with_a_checkpoint_inside_an_epoch(bundle, tmp_path):
    root, command = bundle
    limited = command("--max_epochs", 1, "--iterations_per_epoch", 1000000, "--max_minutes", 0.02)
    train(limited, tmp_path)
    left = reached(root)
    assert 10 <= left < 1000000
    assert (root / "models" / "model.pt").is_file()
    # Continued inside the epoch, and ended where an undisturbed run ends.
    train(command("--max_epochs", 1, "--iterations_per_epoch", left + 7), tmp_path)
    assert reached(root) == left + 7


@pytest.mark.parametrize("parameterization", ["ddpm", "flow"])
def test_other_parameterizations_train_and_are_read_back(bundle, tmp_path, scan, parameterization):
    root, command = bundle
    more = ("--parameterization", parameterization, "--sheet_interval", 1, "--val_interval", 5)
    train(command("--max_epochs", 1, *more), tmp_path)
    assert (root / "checkpoints" / "best.pt").is_file()  # the end is validated, whatever the interval
    prior = load_prior(root)
    assert prior.objective == objective(parameterization)
    assert {tuple(p.shape) for p in prior.network().head.parameters()} == {(8, 8, 3, 3), (8,)}
    assert load_config(root).get_parsed_content("inferer").prior.objective == prior.objective
    # What was trained is written into its line; nothing else changes.
    before = (find_bundle("brain_mri") / "configs" / "prior.yaml").read_text()
    after = (root / "configs" / "prior.yaml").read_text()
    line = re.compile(r"^(parameterization|  channels|  blocks|  heads): .*$", re.MULTILINE)
    assert line.sub("", after) == line.sub("", before)
    assert f"parameterization: {parameterization}  " in after


def test_two_processes_train_one_network(bundle, tmp_path):
    root, command = bundle
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")
    configs = ("train.yaml", "multi_gpu_train.yaml")
    out = train(command("--max_epochs", 2, configs=configs, start=start), tmp_path)
    assert reached(root) == 6
    assert out.count("Epoch[2] Metrics") == 1  # only the first process reports
    train(command("--max_epochs", 3, configs=configs, start=start), tmp_path)
    assert reached(root) == 9
    train(command("--max_epochs", 4), tmp_path)  # and one process goes on with what two have made
    assert reached(root) == 12


def test_two_processes_train_on_measurements(bundle, tmp_path):
    """The loss calls the network of each process several times before one backward pass; one process goes on alone."""
    root, command = bundle
    rows = "$[{'image': row['image'].repeat(2, 0) / 200, 'noise_std': 0.1} for row in %s]"
    measured = (
        "--trained_for", "$__import__('medrecon.training.denoising').training.denoising.SURELoss()", "--weights", "$None",
        "--rows", rows % "slices.load_slices(@dataset_dir + '/brain_slices_256.npz')",
        "--val_rows", rows % "workflows.rows_of_rank(slices.load_slices(@dataset_dir + '/brain_slices_256_val.npz'))",
    )  # fmt: skip
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "monai.bundle")
    configs = ("train.yaml", "multi_gpu_train.yaml")
    out = train(command("--max_epochs", 1, *measured, configs=configs, start=start), tmp_path)
    assert reached(root) == 3
    assert out.count("Epoch[1] Metrics -- negative_loss") == 1
    train(command("--max_epochs", 2, *measured), tmp_path)
    assert reached(root) == 6


def test_checkpoint_restores_everything_and_new_random_numbers(tmp_path):
    """One epoch and then another are two epochs, were it not for the random numbers, which must be new."""
    seen, seeds = {}, []

    def run(epochs, folder, name):
        torch.manual_seed(0)
        network = torch.nn.Linear(1, 1)
        average = averaged(network)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)

        def step(engine, batch):
            optimizer.zero_grad()
            network(torch.rand(8, 1)).square().mean().backward()
            optimizer.step()
            average.update_parameters(network)

        engine = Engine(step)
        engine.state.epoch_length = 4
        checkpoint(engine, folder, {"network": network, "average": average, "optimizer": optimizer}, seed=3)
        moment = lambda: optimizer.state[network.weight]["exp_avg"].item() if optimizer.state else None  # noqa: E731

        @engine.on(Events.STARTED)
        def started():
            seeds.append(torch.initial_seed())
            seen[name, "start"] = network.weight.item(), average.module.weight.item(), int(average.n_averaged), moment()

        engine.run(range(4), max_epochs=epochs, epoch_length=4)
        seen[name, "end"] = network.weight.item(), average.module.weight.item(), int(average.n_averaged), moment()
        return engine.state.iteration

    assert run(1, tmp_path / "a", "first") == 4
    assert run(2, tmp_path / "a", "second") == 8
    assert seen["second", "start"] == seen["first", "end"]
    assert seen["second", "end"][2] == 8
    assert seeds[0] != seeds[1]
    assert run(2, tmp_path / "a", "nothing left") == 8
    whole = (tmp_path / "a" / "latest.pt").read_bytes()
    (tmp_path / "a" / "latest.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"latest\.pt: cannot be continued"):
        run(3, tmp_path / "a", "damaged")


def test_where_a_run_stands_is_counted_in_its_own_epochs(tmp_path):
    """A checkpoint after 20 steps is 5 epochs of 4 and 2 of 10: a longer epoch must not end the run early."""

    def run(epochs, length):
        network = torch.nn.Linear(1, 1)
        engine = Engine(lambda e, b: None)
        engine.state.epoch_length = length
        checkpoint(engine, tmp_path, {"network": network})
        engine.run(range(length), max_epochs=epochs, epoch_length=length)
        return engine.state.iteration

    assert run(5, 4) == 20
    assert run(3, 10) == 30


def test_start_from_takes_what_fits(tmp_path):
    torch.manual_seed(0)
    one, two = (ResidualUNet(in_channels=c, channels=(8, 16), blocks=(1, 1)) for c in (2, 1))
    torch.save(one.state_dict(), tmp_path / "one.pt")
    before = two.head.weight.clone()
    assert start_from(two, tmp_path / "one.pt") is two
    assert torch.equal(two.encoder[0][0].first.weight, one.encoder[0][0].first.weight)
    assert torch.equal(two.head.weight, before)
    average = averaged(one)
    torch.save({"average": average.state_dict(), "trainer": {"iteration": 3}}, tmp_path / "latest.pt")
    fresh = start_from(ResidualUNet(channels=(8, 16), blocks=(1, 1)), tmp_path / "latest.pt")
    assert torch.equal(fresh.head.weight, one.head.weight)
    assert start_from(fresh, "") is fresh
    with pytest.raises(InputError, match="none of its weights matches"):
        start_from(torch.nn.Linear(3, 3), tmp_path / "one.pt")
    (tmp_path / "bad.pt").write_bytes(b"PK no")
    with pytest.raises(InputError, match=r"bad\.pt: has no weights"):
        start_from(two, tmp_path / "bad.pt")


def test_the_best_is_kept_over_continued_runs_alone(tmp_path):
    network = torch.nn.Linear(1, 1, bias=False)
    average = averaged(network)

    def judge(keep, metric, value):
        average.module.weight.data.fill_(value)
        evaluator = Engine(lambda e, b: None)
        evaluator.state.metrics, evaluator.state.key_metric_name = {"psnr": metric}, "psnr"
        keep(evaluator)

    first = KeepBest(average, tmp_path / "best.pt")
    judge(first, 3.0, 1.0)
    judge(first, 5.0, 2.0)
    continued = KeepBest(average, tmp_path / "best.pt")
    continued.load_state_dict(first.state_dict())
    judge(continued, 4.0, 3.0)
    assert continued.restore().weight.item() == 2.0
    new = KeepBest(average, tmp_path / "best.pt")  # another run, whose metric may mean another thing
    average.module.weight.data.fill_(7.0)
    assert new.restore().weight.item() == 7.0
    judge(new, 1.0, 4.0)
    assert new.restore().weight.item() == 4.0


def test_prepare_batch():
    torch.manual_seed(0)
    x0 = torch.randn(400, 2, 4, 4)
    prepare = DenoisingPrepareBatch(EDM(sigma_data=0.25), label="label", null=4, dropped=0.1)
    inputs, target, (steps,), named = prepare({"image": x0, "label": torch.arange(400) % 4})
    assert inputs.shape == target.shape == x0.shape
    assert abs(float(steps.mean()) - 250 * -1.6 / 4) < 2
    kept = named["class_labels"] != 4
    assert torch.equal(named["class_labels"][kept], (torch.arange(400) % 4)[kept])
    assert abs(float((~kept).float().mean()) - 0.1) < 4 * (0.09 / 400) ** 0.5
    few = DenoisingPrepareBatch(EDM(), Augment(crop=(8, 32)), label="label", null=4, dropped=0.0)
    stored = {"image": torch.ones(16, 1, 40, 40, dtype=torch.uint8), "label": torch.arange(16)}
    for _ in range(8):
        inputs, _, _, named = few(stored)
        assert len(inputs) == {8: 16, 32: 1}[inputs.shape[-1]]  # as many pixels a batch
        assert torch.equal(named["class_labels"], torch.arange(len(inputs)))
    overviews = DenoisingPrepareBatch(
        EDM(), None, label="label", null=99, dropped=0.0,
        overviews=Overviews(augment=Augment(crop=8, copies=3), probability=1.0, log_mean=5.0, log_std=0.1),
    )  # fmt: skip
    inputs, _, (steps,), named = overviews(stored)
    assert inputs.shape == (48, 2, 8, 8) and float(steps.min()) > 250 * 4 / 4
    assert torch.equal(named["class_labels"], torch.arange(48) % 16)
    crops = DenoisingPrepareBatch(EDM(), Augment(crop=16))({"image": torch.ones(2, 1, 40, 40, dtype=torch.uint8)})
    assert crops[0].shape == (2, 2, 16, 16) and crops[3] == {}
    noisy, clean, (sigma,), _ = NoisyPrepareBatch([0.1, 1.0])({"image": x0})
    assert torch.equal(clean[::2], x0) and torch.equal(clean[1::2], x0)
    assert torch.equal(sigma[:3], torch.tensor([0.1, 1.0, 0.1]))
    assert torch.allclose((noisy - clean)[1::2], 10 * (noisy - clean)[::2], atol=1e-5)  # the same noise at every level
    assert torch.equal(noisy, NoisyPrepareBatch([0.1, 1.0])({"image": x0})[0])
    state = torch.get_rng_state()
    NoisyPrepareBatch([0.1])({"image": x0})
    assert torch.equal(torch.get_rng_state(), state)  # validation leaves training's random numbers alone
    stored, validation = (
        torch.randint(200, (2, 1, 40, 40), dtype=torch.uint8),
        NoisyPrepareBatch([0.1], Augment(crop=16)),
    )
    both = validation({"image": stored})[0]
    assert torch.equal(both[1:], validation({"image": stored[1:]})[0])  # whatever batch an image comes in
    assert not torch.equal(both, NoisyPrepareBatch([0.1], Augment(crop=16), seed=1)({"image": stored})[0])


def test_metrics_per_level_pick_their_level():
    metrics = denoising_metrics([0.1, 1.0])
    evaluator = Engine(lambda e, batch: batch)
    for name, metric in metrics.items():
        metric.attach(evaluator, name)
    zero, one = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    evaluator.run([[{"pred": 0.1 * one, "label": zero}, {"pred": one, "label": zero}] * 2])
    assert evaluator.state.metrics["psnr_0.1"] == pytest.approx(20.0, abs=1e-4)
    assert evaluator.state.metrics["psnr_1"] == pytest.approx(0.0, abs=1e-4)


def test_autocast_inferer_passes_labels_and_keeps_float32():
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1), num_class_embeds=3)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(2, 2, 8, 8), torch.zeros(2)
    network.requires_grad_(False)
    exact = AutocastInferer(None)
    labelled = exact(x, network, t, class_labels=torch.tensor([0, 1]))
    assert not torch.allclose(labelled, exact(x, network, t))
    assert torch.equal(
        exact(x, network, t), exact(x, network, t, class_labels=torch.tensor([2, 2]))
    )  # null is the last
    low = AutocastInferer(torch.bfloat16)(x, network, t)
    assert low.dtype == torch.float32
    assert 0 < float((low - exact(x, network, t)).norm() / low.norm()) < 0.05  # bfloat16 has 8 bits
    with pytest.raises(ValueError, match="no class_labels"):
        ResidualUNet(channels=(8,), blocks=(1,))(x, t, class_labels=torch.tensor([0, 0]))


def test_sheet_does_not_disturb_training(tmp_path):
    torch.manual_seed(0)
    network = ResidualUNet(channels=(8,), blocks=(1,)).train()
    state = torch.get_rng_state()
    handler = SampleSheet(network, EDM(), tmp_path / "s.png", SheetSettings(shape=(2, 16, 16), n_steps=2, n_images=2))
    first = handler.draw()
    assert torch.equal(first, handler.draw()) and first.shape == (2, 16, 16)
    assert network.training and torch.equal(torch.get_rng_state(), state)


def test_schedule_and_moving_average():
    network = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    schedule = WarmupCosine(optimizer, 0.5, total=1000, warmup=100, floor=0.1)
    assert schedule.rate(50) == pytest.approx(0.25, rel=0.02)
    assert schedule.rate(500) == pytest.approx(0.5 * 0.55)
    assert schedule.rate(1000) == pytest.approx(0.05)
    assert schedule.rate(5000) == pytest.approx(0.05)
    average = averaged(network, decay=0.9)
    with torch.no_grad():
        network.weight.fill_(1.0)
        average.update_parameters(network)
        network.weight.fill_(2.0)
        for _ in range(200):
            average.update_parameters(network)
    assert abs(float(average.module.weight.detach()) - 2.0) < 1e-6
