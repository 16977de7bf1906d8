"""What a user gives is data: nothing of it is evaluated, and what cannot be used is refused in one sentence."""

import hashlib
import io
import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

import medrecon
from medrecon.bundle import find_bundle, load_prior, load_weights, metadata, save_weights
from medrecon.cli import main
from medrecon.cli.options import parse_value
from medrecon.data.errors import InputError
from medrecon.formats import load_kspace
from medrecon.monai_bundle import Config, load_config, parsed
from medrecon.networks import ResidualUNet
from medrecon.posterior import sampling
from medrecon.prep import RunOptions, load_recipe, prepare
from medrecon.settings import SamplingSettings
from medrecon.solvers import SOLVERS, is_unconditional
from medrecon.solvers.settings import make_solver

DATA_SOLVERS = [name for name, solver in SOLVERS.items() if not is_unconditional(solver)]


def call(*arguments, **more):
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "medrecon", *map(str, arguments)], capture_output=True, text=True, **more
    )


def one_sentence(capsys):
    printed = capsys.readouterr().err
    assert printed.startswith("medrecon: error: ") and printed.count("\n") == 1, printed
    return printed


# Nothing is evaluated


def harmful(marker):
    """Texts and nested values that a config's evaluator would act on."""
    code = f"$__import__('pathlib').Path({str(marker)!r}).touch()"
    component = {"_target_": "pathlib.Path.touch", "self": f"$__import__('pathlib').Path({str(marker)!r})"}
    return [code, "@seed", "%no-such-file.yaml", component, [code], {"a": [component, {code: code, "@seed": "a#b"}]}]


def test_bound_values_are_data_however_deep(tmp_path):
    """Wherever a config refers to them, beside what the config itself evaluates."""
    for given in harmful(tmp_path / "marker"):
        code = {
            "x": None,
            "seed": 7,
            "plain": "@x",
            "made": {"_target_": "builtins.dict", "held": "@x", "list": ["@x", {"again": "@x"}]},
            "worked_out": "$[@x, @seed + 1]",
        }
        config = Config(code)
        config.bind(x=given)
        config["seed"] = 3  # a later change of the config leaves them bound
        assert config.get_parsed_content("plain") == given
        assert config.get_parsed_content("made") == {"held": given, "list": [given, {"again": given}]}
        assert config.get_parsed_content("worked_out") == [given, 4]
        assert config.get_parsed_content("plain", lazy=False) == given
    assert not (tmp_path / "marker").exists()
    config = Config({"x": None, "part": "@x::b::0"})
    config.bind(x={"b": ["$1/0"]})
    assert config.get_parsed_content("part") == "$1/0"
    with pytest.raises(KeyError):
        config.bind(y=1)


@pytest.mark.parametrize(
    "argument", ["solver", "start", "condition", "bundle", "settings", "noise_std", "samples", "device"]
)
def test_no_argument_of_reconstruct_is_evaluated(scan, tmp_path, argument):
    data = load_kspace(scan()[0])
    more = {"start_sigma": 0.1} if argument == "start" else {}
    values = harmful(tmp_path / "marker")
    if argument == "settings":
        values = [
            *values,
            *({"gamma": one} for one in values),
            {values[0]: 1.0},
        ]
        values += [{"wavelet": one} for one in values[:3]]
    for given in values:
        for solver in ("dds", "wavelet")[: 1 + (argument == "settings")]:
            with pytest.raises(InputError) as caught:
                medrecon.reconstruct(data.kspace, data.mask, **{"solver": solver, "steps": 1, argument: given, **more})
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "marker").exists()


def test_no_option_of_the_command_line_is_evaluated(scan, tmp_path, capsys):
    path, _ = scan()
    code = harmful(tmp_path / "marker")[0]
    quoted = json.dumps([code, {"_target_": code}])
    for options in (
        ["--solver", code],
        ["--start", code, "--start-sigma", "0.1"],
        ["--condition", code],
        ["--condition", "@labels"],
        ["--bundle", code],
        ["--set", f"solver.gamma={code}"],
        ["--set", f"solver.gamma={quoted}"],
        ["--set", f"solver.{code}=1"],
        ["--solver", "wavelet", "--set", f"solver.wavelet={code}"],
        ["--device", code],
    ):
        assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--steps", "1", *options]) == 2
        one_sentence(capsys)
    for change in (f"pattern={code}", f"select={quoted}", f"imports={quoted}", f"optional={quoted}", f"cases={code}"):
        command = ["prep", str(tmp_path), "-o", str(tmp_path / "p"), "--recipe", "kspace", "--set", change]
        assert main(command) == 2 or change.startswith("select")
        capsys.readouterr()
    assert not (tmp_path / "marker").exists()


def test_empty_and_huge_arguments_are_one_sentence(scan, tmp_path, capsys):
    path, _ = scan(full=True)
    commands = [
        ["recon", "", "-o", str(tmp_path / "o")],
        ["evaluate", str(path), "--reference", ""],
        ["undersample", "", "-o", str(tmp_path / "o.h5")],
        ["recon", str(path), "-o", str(tmp_path / "o"), "--bundle", "a" * 5000],
        ["recon", str(path), "-o", str(tmp_path / "o"), "--solver", "a" * 5000],
        ["recon", "a" * 5000, "-o", str(tmp_path / "o")],
    ]
    for command in commands:
        assert main(command) == 2
        one_sentence(capsys)
    for command in (
        ["undersample", str(path), "-o", str(tmp_path / "o.h5"), "--seed", "9" * 20],
        ["recon", str(path), "-o", str(tmp_path / "o"), "--threads", "9" * 20],
    ):
        with pytest.raises(SystemExit) as caught:  # of argparse, which names the option
            main(command)
        assert caught.value.code == 2
    assert list(tmp_path.iterdir()) == [path]


def test_names_are_corrected(scan):
    data = load_kspace(scan()[0])

    def refusal(**more):
        with pytest.raises(InputError) as caught:
            medrecon.reconstruct(data.kspace, data.mask, steps=1, **more)
        return str(caught.value)

    assert "did you mean 'cg-sense'" in refusal(solver="cgsense")
    assert "did you mean 'tv'" in refusal(start="t v", start_sigma=0.1)
    assert "did you mean 'FLAIR'" in refusal(condition="FLAIRR")
    assert "did you mean 'gamma'" in refusal(settings={"gama": 1.0})
    assert "takes no condition" in refusal(condition="T1", bundle="brain_mri_magnitude")


def test_paths_are_data(scan, tmp_path):
    """Folders that are called like expressions, references, macros and separators."""
    path, _ = scan()
    names = ["$1", "@seed", "100%", "%a", "a#b", "$__import__('os').abort()"]
    for name in names:
        source = tmp_path / name / "in"
        source.mkdir(parents=True)
        (source / "a#1.h5").write_bytes(path.read_bytes())
        report = prepare(source, tmp_path / name / "out", load_recipe("kspace"))
        assert (report.prepared, report.failed) == (1, [])
    root = tmp_path / "a#b" / "$c@d%"
    root.mkdir()
    network = ResidualUNet(channels=(8, 16), blocks=(1, 1), num_class_embeds=5)
    (root / "configs").mkdir()
    for file in ("inference.yaml", "metadata.json", "prior.yaml"):
        text = (find_bundle("brain_mri") / "configs" / file).read_text()
        text = text.replace("channels: [64, 128, 224, 192]", "channels: [8, 16]").replace("heads: 6", "heads: 0")
        (root / "configs" / file).write_text(text.replace("blocks: [2, 2, 2, 1]", "blocks: [1, 1]"))
    save_weights(network, root)
    data = load_kspace(path)
    record = medrecon.reconstruct(data.kspace, data.mask, bundle=root, steps=2).record
    assert record["bundle"]["weights_sha256"] == metadata(root)["weights"]["sha256"]


def test_changes_of_a_recipe_are_data(scan, tmp_path):
    path, _ = scan()
    (tmp_path / "in").mkdir()
    for name in ("$a.h5", "b.h5"):
        (tmp_path / "in" / name).write_bytes(path.read_bytes())
    recipe = load_recipe("kspace", {"pattern": r"$a\.h5|[$]a\.h5"})  # as an expression it would be a syntax error
    assert prepare(tmp_path / "in", tmp_path / "out", recipe).prepared == 1
    assert prepare(tmp_path / "in", tmp_path / "out", recipe, run=RunOptions(workers=1)).skipped == 1
    with pytest.raises(InputError, match="not a regular expression"):
        prepare(tmp_path / "in", tmp_path / "other", load_recipe("kspace", {"pattern": ["@source"]}))
    with pytest.raises(InputError, match="holds no file"):
        prepare(tmp_path / "in", tmp_path / "other", load_recipe("kspace", {"pattern": "%no-such-file.yaml"}))
    with pytest.raises(InputError, match="did you mean 'pattern'"):
        load_recipe("kspace", {"patern": "a"})


# Values of the wrong kind


HOSTILE = ["text", "$1", "", [], ["$1"], {}, {"_target_": "os.abort"}, None, True, math.nan, math.inf, -math.inf, 1e300, -1e300,
           -1, 10**400, 10**5000, 2**62, (), b"1", 1j, np.float32(1), np.zeros(3)]  # fmt: skip


@pytest.mark.parametrize("name", DATA_SOLVERS)
def test_settings_of_the_wrong_kind_are_refused_in_one_sentence(name):
    """By every solver, for every setting; what is accepted is what was given."""
    for field in fields(SOLVERS[name]):
        for given in HOSTILE:
            try:
                solver = make_solver(name, {field.name: given})
            except InputError as error:
                assert "\n" not in str(error) and len(str(error)) < 400
                continue
            assert getattr(solver, field.name) is given
            assert given is None or given is True or isinstance(given, str) or math.isfinite(given)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "steps": [0, -1, 1.5, "5", True, 10**12],
        "quality": ["", "Best", 2, True, ["fast"]],
        "spacing": [0, -1, math.nan, "7", 1e6],
        "samples": [0, "2", 10**12],
        "seed": ["x", -1, 0.5],
        "guidance": [math.nan, math.inf, -1, "1", 1e300],
        "sigma_max": [0, -1, math.nan, 1e300, "8"],
        "sigma_min": [0, -1, math.nan, "0.01", 9.0, 1e-30, 1e9],
        "condition": ["PD", ["T1"], 3],
        "settings": ["x", [1], 3],
        "posterior": [1, "yes", 0, [True]],
        "start_sigma": [0, "a"],
    }.items(),
)
def test_arguments_of_a_run_of_the_wrong_kind_are_refused(name, values):
    prior = load_prior("brain_mri")
    for given in values:
        with pytest.raises(InputError):
            if name in ("condition", "guidance"):
                prior.conditioned(**{"condition": "T1", name: given})
            else:
                sampling(SamplingSettings(**{"start": "tv" if name == "start_sigma" else None, name: given}), prior)


@pytest.mark.parametrize(
    "given", [1e300, math.nan, math.inf, -1.0, -1e-300, "1", "$1", [1.0], True, 10**400, np.zeros(2)]
)
def test_noise_levels_that_are_none_are_refused(scan, given):
    data = load_kspace(scan()[0])
    with pytest.raises(InputError, match="noise_std"):
        medrecon.reconstruct(data.kspace, data.mask, solver="cg-sense", noise_std=given)


def test_noise_levels_that_single_precision_rounds_to_zero_count_as_zero(scan):
    data = load_kspace(scan()[0])
    images = [
        medrecon.reconstruct(data.kspace, data.mask, steps=2, noise_std=s).image for s in (0, 1e-300, np.array(0.0))
    ]
    assert np.array_equal(images[0], images[1]) and np.array_equal(images[0], images[2])


def test_values_of_set_are_text_where_they_are_not_json():
    assert parse_value("1" * 5000) == "1" * 5000  # more digits than Python converts
    assert parse_value("[" * 100_000) == "[" * 100_000
    assert (parse_value("None"), parse_value("1e-3"), parse_value("$1"), parse_value('{"a": 1}')) == (
        None,
        1e-3,
        "$1",
        {"a": 1},
    )


# Bundles and recipes that are broken


def small_bundle(folder):
    """A bundle with a network of a few weights."""
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(
        '{"name": "b", "version": "1", "weights": {"file": "a", "sha256": "b"}}'
    )
    network = ResidualUNet(channels=(8,), blocks=(1,))
    save_weights(network, folder)
    return network


class _Runs:
    """A pickle that runs code when it is loaded."""

    def __reduce__(self):
        return os.abort, ()


def test_weights_that_are_not_the_networks_are_refused(tmp_path):
    """Though their hash is right."""
    network = small_bundle(tmp_path)
    state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    first = next(iter(state))

    def refusal(content):
        if not isinstance(content, bytes):
            torch.save(content, buffer := io.BytesIO())
            content = buffer.getvalue()
        (tmp_path / "models" / "model.pt").write_bytes(content)
        facts = json.loads((tmp_path / "configs" / "metadata.json").read_text())
        facts["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
        (tmp_path / "configs" / "metadata.json").write_text(json.dumps(facts))
        with pytest.raises(InputError) as caught:
            load_weights(network, tmp_path)
        assert "\n" not in str(caught.value) and "model.pt" in str(caught.value)
        return str(caught.value)

    for content in (b"", b"text", b"PK\x03\x04" + bytes(99), pickle.dumps(_Runs()), _Runs(), network):
        assert "without running code" in refusal(content)
    for content in ([1], torch.ones(2), {**state, first: 1}, {"state_dict": state}):
        assert "objects other than tensors" in refusal(content)
    other = ResidualUNet(channels=(16,), blocks=(1,)).state_dict()
    assert "another network" in refusal(other) and " is (" in refusal(other)
    assert "other names" in refusal({**state, "more": torch.ones(1)})
    assert "other names" in refusal(dict(list(state.items())[1:]))
    assert f"{first} holds NaN" in refusal({**state, first: torch.full_like(state[first], math.nan)})
    for wrong in (
        state[first].to(torch.complex64),
        state[first] > 0,
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
    ):
        assert "not plain real numbers" in refusal({**state, first: wrong})


@pytest.mark.parametrize(
    "content",
    [
        "", "[1]", "3", "null", "{", "[" * 100_000, b"\xff\xfe", '{"weights": []}', '{"weights": "x"}',
        '{"weights": {"file": "m"}}',
        '{"weights": {"file": 3, "sha256": "a"}}', '{"weights": {"file": "m", "sha256": 3}}',
        '{"weights": {"file": "../m", "sha256": "a"}}', '{"weights": {"file": "/etc/passwd", "sha256": "a"}}',
        '{"weights": {"file": "a/../../m", "sha256": "a"}}', '{"name": [], "weights": {"file": "m", "sha256": "a"}}',
        '{"version": 2, "weights": {"file": "m", "sha256": "a"}}',
    ],
)  # fmt: skip
def test_metadata_of_the_wrong_kind_are_refused(tmp_path, content):
    network = small_bundle(tmp_path)
    for stray in (tmp_path.parent / "m", tmp_path / "m"):
        stray.write_bytes(b"no weights")
    (tmp_path / "configs" / "metadata.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"metadata\.json") as caught:
        load_weights(network, tmp_path)
    assert "\n" not in str(caught.value) and "SHA" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("", "holds a NoneType"),
        ("- 1", "holds a list"),
        ("1: 2", "not text"),
        ("a: [", "not a YAML file"),
        ("a: 2024-13-41", "not a YAML file"),
        (b"\xff\xfe\x00", "not a YAML file"),
        ("solver: x", "has no item 'bundle_root'"),
        ("bundle_root: x", "has no item 'inferer'"),
        ("bundle_root: x\ninferer: {_target_: no.such.Thing}", "'inferer' cannot be built"),
        ("bundle_root: x\ninferer: $1/0", "ZeroDivisionError"),
        ("bundle_root: x\ninferer: '@inferer'", "circular"),
        ("bundle_root: x\ninferer: {_target_: medrecon.inferers.DenoisingInferer, sigma_min: 2024-01-01}", "sigma_min"),
    ],
)
def test_configs_of_the_wrong_kind_are_refused(tmp_path, content, words):
    (tmp_path / "configs").mkdir()
    if content is not None:
        path = tmp_path / "configs" / "inference.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as caught:
        parsed(load_config(tmp_path), "inferer")
    assert "\n" not in str(caught.value)


RECIPE = "cases: {_target_: medrecon.prep.files, source: '@source', pattern: '.*'}\n"
LOAD = "transform: {_target_: medrecon.transforms.LoadKSpaced, keys: image}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds a NoneType"),
        ("2024-01-01", "holds a date"),
        ("- a", "holds a list"),
        ("text", "holds a str"),
        (RECIPE + LOAD + "write: {image: image}\nwhen: 2024-01-01", "'when' is not plain data"),
        (RECIPE + LOAD + "write: {image: image}\nmore: {1: a, b: c}", "'more' is not plain data"),
        (RECIPE + LOAD + "write: {image: image}\nmore: &a [*a]", "'more' is not plain data"),
        (RECIPE + LOAD + "write: [image]", "'write' must map names"),
        (RECIPE + LOAD + "write: {image: 3}", "'write' must map names"),
        (RECIPE + LOAD + "write: {image: image}\noptional: x", "'optional' must map names"),
        (RECIPE + LOAD + "write: {image: image}\ncompression: [gzip]", "compression is gzip"),
        (RECIPE + "transform: [1]\nwrite: {image: image}", "'transform' must have a '_target_'"),
        (RECIPE + "transform: {_target_: builtins.dict}\nwrite: {image: image}", "not a transform"),
        ("cases: {_target_: builtins.list}\n" + LOAD + "write: {image: image}", "holds no file"),
        ("cases: {_target_: builtins.dict}\n" + LOAD + "write: {image: image}", "not a list of cases"),
        ("cases: $[1]\n" + LOAD + "write: {image: image}", "not a list of cases"),
        ("cases: 3\n" + LOAD + "write: {image: image}", "'cases' must have a '_target_'"),
        ("cases: {_target_: no.such}\n" + LOAD + "write: {image: image}", "'cases' cannot be built"),
        (RECIPE + LOAD + "write: {image: image}\nimports: $1/0", "'imports' cannot be built"),
        (RECIPE + "write: {}", "lacks transform"),
    ],
)
def test_recipes_of_the_wrong_kind_are_refused(scan, tmp_path, capsys, text, words):
    scan()
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "in").mkdir()
    (tmp_path / "scan.h5").rename(tmp_path / "in" / "scan.h5")
    assert main(["prep", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--recipe", str(tmp_path / "r.yaml")]) == 2
    assert words in one_sentence(capsys)
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


# Where it runs


def unread(*command, cwd):
    """A process whose output nobody reads, and which buffers it, as Python does by default."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYTHONUNBUFFERED", None)
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as closed:
        return subprocess.run(
            [sys.executable, *command], stdout=closed, stderr=subprocess.PIPE, cwd=cwd, env=environment
        )


@pytest.mark.parametrize("command", [["--help"], ["info", "scan.h5"]])
def test_a_reader_that_goes_away_is_no_error(scan, tmp_path, command):
    """As ``| head`` does."""
    scan()
    out = unread("-m", "medrecon", *command, cwd=tmp_path)
    assert (out.returncode, out.stderr) == (0, b"")


def test_work_goes_on_when_its_reader_goes_away(tmp_path):
    code = (
        "from medrecon.cli.streams import robust_streams\n"
        "with robust_streams():\n"
        "    for i in range(3000):\n"
        "        print('more than a buffer holds')\n"
        "    open('done', 'w').close()\n"
    )
    out = unread("-c", code, cwd=tmp_path)
    assert (out.returncode, out.stderr) == (0, b"")
    assert (tmp_path / "done").exists()


def test_output_that_fits_the_buffer_is_discarded_at_the_end(tmp_path):
    """Otherwise Python fails to write it when it exits."""
    code = "from medrecon.cli.streams import robust_streams\nwith robust_streams():\n    print('one line')\n"
    out = unread("-c", code, cwd=tmp_path)
    assert (out.returncode, out.stderr) == (0, b"")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX")
def test_closed_standard_streams_do_not_end_up_in_files(scan, tmp_path):
    """What libraries print to a closed descriptor would go into the next file that is opened."""
    path, _ = scan()
    code = (
        "from medrecon.cli.streams import robust_streams\n"
        "with robust_streams(), open('number', 'w') as file:\n"
        "    print('to nowhere')\n"
        "    file.write(str(file.fileno()))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for command in (["-c", code], ["-m", "medrecon", "info", str(path)]):
        shell = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, *command]
        assert subprocess.run(shell, cwd=tmp_path, env=environment).returncode == 0
    assert int((tmp_path / "number").read_text()) > 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_one_sentence(scan):
    path, _ = scan()
    with open("/dev/full", "w") as full:
        out = subprocess.run([sys.executable, "-m", "medrecon", "info", str(path)], stdout=full, stderr=subprocess.PIPE)
    assert out.returncode == 2
    assert out.stderr.startswith(b"medrecon: error: standard output: No space left") and out.stderr.count(b"\n") == 1


def test_reconstruction_needs_no_compiler_and_no_cache(scan, monkeypatch):
    """Numba cannot be imported by sigpy where it finds no folder for its cache: a read-only installation without HOME."""
    data = load_kspace(scan()[0])
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setitem(sys.modules, "sigpy", None)
    assert medrecon.reconstruct(data.kspace, data.mask, steps=1).record["maps_source"] == "ESPIRiT"


def test_poisson_masks_need_no_folder_of_their_installation():
    """Numba's only cache here is one that it is given, as where neither installation nor home can be written."""
    code = (
        "import os, numba, numba.core.caching as caching\n"
        "held = caching.CacheImpl._locator_classes\n"
        "caching.CacheImpl._locator_classes = [one for one in held if 'UserProvided' in one.__name__]\n"
        "from medrecon.data.masks import sigpy_mri\n"
        "assert sigpy_mri().poisson.__name__ == 'poisson'\n"
        "folder = numba.config.CACHE_DIR\n"
        "assert os.stat(folder).st_mode & 0o777 == 0o700\n"
        "print(folder)"
    )
    clean = {key: text for key, text in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    clean["PYTHONPATH"] = os.pathsep.join(sys.path)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    assert out.returncode == 0, out.stderr
    assert not Path(out.stdout.strip()).exists()  # removed at the end
