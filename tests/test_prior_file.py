"""A prior is plain data: what ``prior.yaml`` says, every mistake in it, and the weights that belong to it."""

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from medrecon.bundle import build_network, load_prior, load_weights, metadata, read_prior, save_weights
from medrecon.data.errors import InputError
from medrecon.networks import ResidualUNet, network_on_meta_device
from medrecon.training.objectives import DDPM, EDM

PRIOR = """\
# first line
network: ResidualUNet         # a name
arguments:
  in_channels: 2
  channels: [8, 16]           # widths
  blocks: [1, 1]
parameterization: edm         # or ddpm
sigma_data: 0.5
images: complex
labels: [T1, T2, '']
symmetries: {flip: [-1], shift: 4, phase: true}
trained_planes: [axial, coronal]
multiple: 4
steps: 20
sigma_min: 0.01
quality:
  dds:
    - {acceleration: 4, quality: fast, steps: 8, n_cg: 3, spacing: 5}
    - {acceleration: 4, quality: standard, steps: 12}
    - {acceleration: 4, quality: best, steps: 50}
# what suits it
tuned:
  dds: {sigma_max: 0.3}
  cg-sense: {n_iter: 10}
posterior:
  daps: {sigma_max: 4.0, sigma_min: 0.02, steps: 80, n_ode: 1}
"""
ARGUMENTS = {"in_channels": 2, "channels": [8, 16], "blocks": [1, 1]}


def bundle(folder, text=PRIOR, network=None, **weights):
    """A bundle with a small network of random weights."""
    (folder / "configs").mkdir(parents=True)
    facts = {"name": "small", "version": "1.2.3", "weights": {"file": "a", "sha256": "b", **weights}}
    (folder / "configs" / "metadata.json").write_text(json.dumps(facts))
    torch.manual_seed(0)
    network = network or ResidualUNet(**ARGUMENTS, num_class_embeds=3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    (folder / "configs" / "prior.yaml").write_text(text)
    save_weights(network, folder)
    return folder


@pytest.fixture
def root(tmp_path):
    return bundle(tmp_path / "b")


def refusal(call, *words):
    """The sentence of an error, which must hold all words."""
    with pytest.raises(InputError) as caught:
        call()
    sentence = str(caught.value)
    assert sentence.isprintable() and len(sentence) < 600, sentence
    assert all(word in sentence for word in words), sentence
    return sentence


def test_what_the_file_says_is_what_is_loaded(root):
    prior = load_prior(root)
    assert (prior.name, prior.version) == ("small", "1.2.3")
    content = (root / "models" / "model.pt").read_bytes()
    assert prior.weights_sha256 == hashlib.sha256(content).hexdigest()
    assert prior.objective == EDM(sigma_data=0.5)
    assert (prior.images, prior.channels, prior.labels) == ("complex", 2, ("T1", "T2", ""))
    assert prior.trained_planes == ("axial", "coronal")
    assert prior.symmetries == {"flip": [-1], "shift": 4, "phase": True}
    assert (prior.multiple, prior.n_steps, prior.sigma_min) == (4, 20, 0.01)
    assert prior.tuned == {"dds": {"sigma_max": 0.3}, "cg-sense": {"n_iter": 10}}
    assert [(row.acceleration, row.quality, row.steps) for row in prior.quality["dds"]] == [
        (4.0, "fast", 8), (4.0, "standard", 12), (4.0, "best", 50)
    ]  # fmt: skip
    assert [row.settings for row in prior.quality["dds"]] == [{"n_cg": 3, "spacing": 5}, {}, {}]
    assert prior.posterior == {"daps": {"sigma_max": 4.0, "sigma_min": 0.02, "steps": 80, "n_ode": 1}}


def test_every_call_gives_a_network_of_its_own(root):
    prior = load_prior(root)
    before = torch.get_rng_state()
    one, two = prior.network(), prior.network()
    assert torch.equal(torch.get_rng_state(), before)
    stored = torch.load(root / "models" / "model.pt", weights_only=True)
    for network in (one, two):
        assert not network.training
        for key, value in network.state_dict().items():
            assert value.dtype == torch.float32 and not value.requires_grad
            assert torch.equal(value, stored[key].float())
    one.head.bias.data += 1
    assert not torch.equal(one.head.bias, two.head.bias)
    assert torch.equal(prior.network().head.bias, two.head.bias)


def test_optional_keys_have_defaults(tmp_path):
    lines = PRIOR.splitlines()
    keys = (
        "labels",
        "symmetries",
        "trained",
        "multiple",
        "steps",
        "sigma_min",
        "quality",
        "tuned",
        "post",
        "  d",
        "  cg-sense",
        "    - ",
    )
    text = "\n".join(line for line in lines if not line.startswith(keys))
    prior = load_prior(bundle(tmp_path, text, ResidualUNet(**ARGUMENTS)))
    assert (prior.labels, dict(prior.symmetries), dict(prior.tuned)) == ((), {}, {})
    assert (dict(prior.posterior), dict(prior.quality)) == ({}, {})
    assert (prior.multiple, prior.n_steps, prior.sigma_min) == (16, 50, 0.005)
    assert prior.trained_planes == ("axial",)


def test_posterior_settings_may_leave_out_parts_of_the_ladder(root):
    path = root / "configs" / "prior.yaml"
    for left in ("sigma_max: 4.0, ", "sigma_min: 0.02, ", "steps: 80, ", ", n_ode: 1"):
        path.write_text(PRIOR.replace(left, ""))
        assert len(load_prior(root).posterior["daps"]) == 3


LAUGHS = "a: &a [x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))  # noqa: B905


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        # Names are names, and nothing runs.
        ("network: ResidualUNet", "network: os.system", ["'network' is 'os.system'", "ResidualUNet, DiffusionModelUNet"]),
        ("network: ResidualUNet", "network: $import os", ["$import os"]),
        ("network: ResidualUNet", "network: residualUNet", ["did you mean 'ResidualUNet'"]),
        ("network: ResidualUNet", "network: {_target_: os.abort}", ["_target_"]),
        ("blocks: [1, 1]", "blocks: $__import__('os').abort()", ["$__import__", "'blocks'"]),
        ("blocks: [1, 1]", "blocks: {_target_: os.abort}", ["_target_", "'blocks'"]),
        ("blocks: [1, 1]", "blocks: !!python/object/apply:os.abort []", ["line 6", "tag"]),
        ("n_iter: 10", "n_iter: $1", ["'n_iter' of cg-sense", "$1"]),
        # Sizes
        ("channels: [8, 16]", "channels: [1000000000, 1]", ["up to 1000000", "'channels'"]),
        ("channels: [8, 16]", "channels: [1000000, 1000000]", ["more than 1.1e+09 parameters"]),
        ("blocks: [1, 1]", "blocks: [1000000, 1000000]", ["parts"]),
        ("blocks: [1, 1]", f"blocks: [{'1, ' * 40}1]", ["lists of up to 32"]),
        ("blocks: [1, 1]", f"blocks: [{'1, ' * 10**6}1]", ["larger than 65536 bytes"]),
        ("steps: 20", f"steps: {'9' * 5000}", ["digits"]),
        ("steps: 20", f"steps: 0x{'f' * 5000}", ["'steps'", "too long to show"]),
        (PRIOR, LAUGHS, ["aliases"]),
        (PRIOR, "[" * 60_000, ["recursion"]),
        ("multiple: 4", "multiple: 1000000", ["'multiple'", "from 1 to 128"]),
        # Noise of a network that can only denoise
        ("steps: 20", "noise: gaussian", ["'noise'", "a mapping of family, least and most"]),
        ("steps: 20", "noise: {family: rician, least: 0.1, most: 0.2}", ["'family'", "'rician'", "gaussian"]),
        ("steps: 20", "noise: {family: gaussian, least: 0.1}", ["'noise'", "lacks 'most'"]),
        ("steps: 20", "noise: {family: gaussian, least: 0.2, most: 0.1}", ["'least'", "not below"]),
        ("steps: 20", "noise: {family: gaussian, least: .nan, most: 0.1}", ["'least'", "nan"]),
        ("steps: 20", "noise: {family: gaussian, least: 0.1, most: 0.2, peak: 3}", ["unknown key 'peak'"]),
        ("steps: 20", "noise: {_target_: os.abort}", ["'noise'", "_target_"]),
        # Numbers
        ("sigma_data: 0.5", "sigma_data: .nan", ["'sigma_data'", "nan"]),
        ("sigma_min: 0.01", "sigma_min: -.inf", ["'sigma_min'", "inf"]),
        ("sigma_min: 0.01", "sigma_min: 1e-2", ["'sigma_min'", "write 0.01"]),
        ("steps: 20", "steps: true", ["'steps'", "True"]),
        ("steps: 20", "steps: 20.5", ["'steps'", "20.5"]),
        ("sigma_max: 0.3", "sigma_max: .nan", ["'sigma_max' of dds"]),
        ("n_iter: 10", "n_iter: -3", ["n_iter", "-3"]),
        ("n_iter: 10", "n_iter: ten", ["'n_iter' of cg-sense", "'ten'"]),
        ("n_iter: 10", "n_iter: 1.5", ["'n_iter' of cg-sense", "1.5"]),
        # Settings for posterior samples: also those of the ladder
        ("posterior:", "posteriors:", ["did you mean 'posterior'"]),
        ("  daps: {", "  tv: {", ["'tv'", "no posterior samples"]),
        ("  daps: {", "  ddim: {", ["'ddim'", "no posterior samples"]),
        ("  daps: {", "  dap: {", ["did you mean 'daps'"]),
        ("steps: 80", "steps: 0", ["'steps' of daps", "from 1 to"]),
        ("steps: 80", "steps: 80.5", ["'steps' of daps", "80.5"]),
        ("sigma_min: 0.02", "sigma_min: .nan", ["'sigma_min' of daps"]),
        ("sigma_min: 0.02", "sigma_min: 4.0", ["'sigma_max' of daps", "above its 'sigma_min'"]),
        ("n_ode: 1", "n_odes: 1", ["did you mean 'n_ode'"]),
        ("n_ode: 1", "n_ode: 0", ["n_ode", "0"]),
        ("n_iter: 10", "steps: 10", ["unknown setting 'steps' of cg-sense"]),
        ("  daps: {sigma_max: 4.0, sigma_min: 0.02, steps: 80, n_ode: 1}", "  daps: 4", ["settings for daps"]),
        # Rows of evaluations
        ("steps: 8, ", "steps: 0, ", ["'quality' has a row of dds whose 'steps' must be", "got 0"]),
        ("steps: 8, ", "steps: 8.5, ", ["whose 'steps' must be a whole number"]),
        ("steps: 8, ", "", ["'quality' lacks 'steps' in a row of dds"]),
        ("steps: 8, ", "steps: 13, ", ["steps that rise from fast to best for acceleration 4 of dds"]),
        ("quality: fast", "quality: fats", ["whose 'quality' is 'fats'", "did you mean 'fast'"]),
        ("quality: fast", "quality: best", ["one row each of fast, standard, best for acceleration 4 of dds"]),
        ("acceleration: 4, quality: fast", "acceleration: 5, quality: fast", ["for acceleration 5 of dds"]),
        ("acceleration: 4, quality: fast", "acceleration: -4, quality: fast", ["whose 'acceleration' must be", "-4"]),
        ("n_cg: 3", "n_cgs: 3", ["unknown setting 'n_cgs' of dds", "did you mean 'n_cg'"]),
        ("n_cg: 3", "n_cg: -3", ["settings of dds that cannot be used"]),
        ("spacing: 5", "spacing: 0", ["a 'spacing' of dds that must be"]),
        ("quality:\n  dds:", "quality:\n  tv:", ["rows for 'tv', not a solver with a prior"]),
        ("quality:\n  dds:", "quality:\n  ddz:", ["did you mean 'dds'"]),
        ("    - {acceleration: 4, quality: best, steps: 50}", "    - 5", ["rows of acceleration, quality, steps and settings"]),
        # Names, nesting, missing keys
        ("symmetries:", "symetries:", ["unknown key 'symetries'", "did you mean 'symmetries'"]),
        ("images: complex", "images: compleks", ["did you mean 'complex'"]),
        ("parameterization: edm ", "parameterization: emd ", ["did you mean 'edm'"]),
        ("dds: {", "ddx: {", ["did you mean 'dds'"]),
        ("n_iter: 10", "n_iters: 10", ["did you mean 'n_iter'"]),
        ("  blocks:", "  block:", ["ResidualUNet does not take the argument 'block'", "did you mean 'blocks'"]),
        ("flip: [-1]", "flop: [-1]", ["did you mean 'flip'"]),
        ("flip: [-1]", "flip: [0]", ["axes -2 and -1"]),
        ("shift: 4", "shift: left", ["pixels"]),
        ("phase: true", "phase: 1", ["true or false"]),
        ("[axial, coronal]", "[axial, coronel]", ["did you mean 'coronal'"]),
        ("[axial, coronal]", "[axial, axial]", ["list of different planes", "sagittal"]),
        ("[axial, coronal]", "axial", ["list of different planes"]),
        ("network: ResidualUNet         # a name\n", "", ["lacks the key 'network'"]),
        ("images: complex\n", "", ["lacks the key 'images'"]),
        ("sigma_data: 0.5\n", "", ["lacks the key 'sigma_data'"]),
        ("  blocks: [1, 1]", "  blocks: [[1], 1]", ["'blocks'"]),
        ("  dds: {sigma_max: 0.3}", "  dds: [sigma_max]", ["settings for dds"]),
        ("steps: 20", "steps: 20\nsteps: 30", ["'steps' is given twice"]),
        (PRIOR, "", ["NoneType"]),
        (PRIOR, "- network", ["list"]),
        (PRIOR, "1: 2", ["not text"]),
        (PRIOR, PRIOR + '"\\x1b[31mred": 1\n', ["unknown key '\\x1b[31mred'"]),
        # What does not belong together
        ("images: complex", "images: magnitude", ["1 channel,", "'in_channels' is 2"]),
        ("  in_channels: 2\n", "  in_channels: 2\n  num_class_embeds: 4\n", ["'labels' are 3", "is 4"]),
        ("labels: [T1, T2, '']\n", "", ["weights belong to another network"]),
        ("labels: [T1, T2, '']", "labels: [T1, T2]", ["the last must be ''"]),
        ("labels: [T1, T2, '']", "labels: [T1, T1, '']", ["different"]),
        ("labels: [T1, T2, '']", "labels: [2024-01-01, '']", ["short texts"]),
        ("channels: [8, 16]", "channels: [8, 24]", ["weights belong to another network"]),
        ("channels: [8, 16]", "channels: [8]", ["one entry per scale"]),
        ("channels: [8, 16]", "channels: [-8, 16]", ["cannot be built", "negative"]),
        ("multiple: 4", "multiple: 2", ["sides that are multiples of 2", "multiples of 4"]),
    ],
)  # fmt: skip
def test_every_mistake_is_one_sentence(root, old, new, words):
    path = root / "configs" / "prior.yaml"
    assert PRIOR.count(old) == 1
    path.write_text(PRIOR.replace(old, new))
    sentence = refusal(lambda: load_prior(root).network(), *words)
    assert str(path) in sentence or "model.pt" in sentence


def test_bytes_that_are_not_text_and_files_that_never_end_are_refused(root):
    path = root / "configs" / "prior.yaml"
    path.write_bytes(b"\xff\xfe\x00\x00")
    refusal(lambda: load_prior(root), "not a YAML file")
    path.unlink()
    os.mkfifo(path)
    refusal(lambda: load_prior(root), "not a regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refusal(lambda: load_prior(root), "not a regular file")


def test_an_unbuilt_network_has_shapes_and_takes_no_memory():
    """Of 3e8 parameters, 1.2 GB, none is stored."""
    network = network_on_meta_device("ResidualUNet", {"channels": [4096], "blocks": [1], "num_class_embeds": 2})
    assert all(parameter.is_meta for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) > 3e8
    small = {**ARGUMENTS, "heads": 2, "num_class_embeds": 3}
    shapes = {key: value.shape for key, value in ResidualUNet(**small).state_dict().items()}
    assert {k: v.shape for k, v in network_on_meta_device("ResidualUNet", small).state_dict().items()} == shapes


def stored(content):
    torch.save(content, buffer := io.BytesIO())
    return buffer.getvalue()


def with_weights(root, content):
    """Other weights, whose checksum is right."""
    (root / "models" / "model.pt").write_bytes(content)
    facts = metadata(root)
    facts["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (root / "configs" / "metadata.json").write_text(json.dumps(facts))


def test_weights_that_claim_more_than_they_store_are_refused(root):
    """A small file could otherwise take any amount of memory."""
    state = torch.load(root / "models" / "model.pt", weights_only=True)
    with_weights(root, stored({**state, "head.weight": torch.zeros(1).expand(10**12)}))
    refusal(load_prior(root).network, "fewer numbers are stored")
    bomb = io.BytesIO()
    with (
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("data/0", "w") as file,
    ):
        for _ in range(32):
            file.write(bytes(2**20))
    with_weights(root, bomb.getvalue())
    refusal(load_prior(root).network, "another network", "bytes")
    with (root / "models" / "model.pt").open("wb") as file:
        file.truncate(10**12)  # without content
    refusal(load_prior(root).network, "another network", "bytes")


# Bundles of earlier versions, and what training writes


def without(text, *keys):
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(keys))


def test_bundles_that_record_the_objective_in_their_metadata_are_read(tmp_path):
    text = without(PRIOR, "parameterization", "sigma_data")
    root = bundle(tmp_path / "b", PRIOR)
    (root / "configs" / "prior.yaml").write_text(text)
    facts = metadata(root)
    facts["weights"] |= {"parameterization": "ddpm", "sigma_data": 0.5}
    (root / "configs" / "metadata.json").write_text(json.dumps(facts))
    assert load_prior(root).objective == DDPM()
    (root / "configs" / "prior.yaml").write_text(PRIOR)
    refusal(lambda: load_prior(root), "'parameterization' is 'edm'", "'ddpm'", "prior.yaml")
    (root / "configs" / "prior.yaml").unlink()
    refusal(lambda: load_prior(root), "copy prior.yaml", "docs/priors.md")


def test_saving_writes_what_was_trained_into_its_lines(root):
    network = load_prior(root).network()
    save_weights(network, root, parameterization="flow", sigma_data=1e-5)
    text = (root / "configs" / "prior.yaml").read_text()
    expected = PRIOR.replace("parameterization: edm ", "parameterization: flow ")
    assert text == expected.replace("sigma_data: 0.5", "sigma_data: 1.0e-05")
    assert set(metadata(root)["weights"]) == {"file", "sha256"}
    assert read_prior(root).sigma_data == 1e-5
    save_weights(network, root)
    assert (root / "configs" / "prior.yaml").read_text() == text


@pytest.mark.parametrize("style", ["missing", "one mapping"])
def test_saving_works_however_the_file_is_written(root, style):
    path, network = root / "configs" / "prior.yaml", load_prior(root).network()
    if style == "missing":
        path.write_text(without(PRIOR, "parameterization", "sigma_data"))
    else:
        path.write_text(
            "{network: ResidualUNet, arguments: {in_channels: 2, channels: [8, 16], blocks: [1, 1]}, images: complex,\n"
            "parameterization: edm, sigma_data: 0.5, labels: [T1, T2, '']}\n"
        )
    save_weights(network, root, parameterization="ddpm", sigma_data=0.7)
    prior = read_prior(root)
    assert (prior.parameterization, prior.sigma_data, prior.labels) == ("ddpm", 0.7, ("T1", "T2", ""))


def test_saving_another_network_than_the_one_described_warns(root, caplog):
    """The weights are kept: they may be the work of hours."""
    with caplog.at_level(logging.WARNING, "medrecon"):
        save_weights(load_prior(root).network(), root)
        assert not caplog.messages
        save_weights(ResidualUNet(channels=(8, 8), blocks=(1, 1), num_class_embeds=3), root)
    assert "another network" in caplog.text and "prior.yaml" in caplog.text
    refusal(load_prior(root).network, "another network")
    load_weights(ResidualUNet(channels=(8, 8), blocks=(1, 1), num_class_embeds=3), root)


def test_another_width_is_a_change_of_one_line(root):
    (root / "configs" / "prior.yaml").write_text(PRIOR.replace("channels: [8, 16]", "channels: [8, 24]"))
    network = build_network(root)
    assert network.encoder[1][0].first.weight.shape == (24, 24, 3, 3)
    save_weights(network, root)
    assert torch.equal(load_prior(root).network().tail.weight, network.tail.weight.half().float())


MONAI = """\
network: DiffusionModelUNet
arguments: {spatial_dims: 2, in_channels: 1, out_channels: 1, channels: [8, 8], num_res_blocks: 1, norm_num_groups: 4,
  attention_levels: [false, true], num_head_channels: 4}
parameterization: ddpm
sigma_data: 0.5
images: magnitude
multiple: 2
"""


def test_networks_of_monai_are_loaded_when_named(tmp_path):
    from monai.networks.nets import DiffusionModelUNet

    original = DiffusionModelUNet(
        spatial_dims=2, in_channels=1, out_channels=1, channels=(8, 8), num_res_blocks=1, norm_num_groups=4,
        attention_levels=(False, True), num_head_channels=4,
    ).half().float()  # fmt: skip
    root = bundle(tmp_path / "b", MONAI, original)
    network = load_prior(root).network()
    x, t = torch.randn(2, 1, 8, 6), torch.tensor([3.0, 500.0])
    with torch.no_grad():
        assert torch.equal(network(x, t), original.half().float().requires_grad_(False)(x, t))
    code = (
        "import sys; from medrecon.bundle import load_prior; load_prior(sys.argv[1]); assert 'monai' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, root], check=True)
    (root / "configs" / "prior.yaml").write_text(MONAI.replace("out_channels: 1", "out_channels: 3"))
    save_weights(build_like(original, 3), root)
    refusal(load_prior(root).network, "images of 1 channel ", "(1, 3, 2, 2)")


def build_like(network, out_channels):
    """The same network with another number of output channels."""
    last = network.out[2].conv
    network.out[2].conv = torch.nn.Conv2d(last.in_channels, out_channels, 3, padding=1)
    return network
