"""What the command line says while it works, and options from a file."""

import json
import logging

import pytest

from medrecon.cli import main, parse_arguments
from medrecon.cli.options import Progress
from medrecon.data.errors import InputError


def recon(path, out, *more):
    return main(["recon", str(path), "-o", str(out), "--solver", "cg-sense", "--overwrite", *map(str, more)])


def test_loudness(scan, tmp_path, capsys):
    path, _ = scan((64, 60), acs=6)  # few lines for maps: a warning
    assert recon(path, tmp_path / "o") == 0
    plain = capsys.readouterr().err
    assert plain.startswith("medrecon: warning: ") and "maps source" not in plain
    assert recon(path, tmp_path / "o", "-v") == 0
    loud = capsys.readouterr().err
    assert plain in loud and "maps source" in loud and "fastMRI HDF5, 1 of 64 x 60 pixels by cg-sense" in loud
    assert main(["-q", "recon", str(path), "-o", str(tmp_path / "o"), "--solver", "cg-sense", "--overwrite"]) == 0
    assert capsys.readouterr().err == ""
    assert json.loads((tmp_path / "o" / "scan.json").read_text())["warnings"]
    assert recon(tmp_path / "none.h5", tmp_path / "o", "-q") == 2
    assert "no such file" in capsys.readouterr().err
    assert logging.getLogger("medrecon").level == logging.NOTSET


def test_a_log_without_a_terminal_has_a_line_now_and_then(monkeypatch, caplog):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, logger="medrecon"), Progress("x") as step:
        for k in range(1, 101):
            now[0] += 1
            step(k, 100)
    assert [one.getMessage() for one in caplog.records] == [
        f"x: {k} of 100 steps in {k} s, about {100 - k} s to go" for k in (30, 60, 90)
    ]


def test_options_from_a_file(scan, tmp_path, capsys):
    path, _ = scan()
    config = tmp_path / "run.yaml"
    config.write_text(
        'solver: cg-sense\nset: {lam: 0.5, n_iter: 3}\nslices: "0:1"\noverwrite: true\nnoise_std: 1.0e-3\nseed: 3\n'
        "mask: null\nlike-select: {}\n"
    )
    assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--config", str(config), "--seed", "4"]) == 0
    record = json.loads((tmp_path / "o" / "scan.json").read_text())
    assert (record["solver"]["lam"], record["solver"]["n_iter"]) == (0.5, 3)
    assert record["noise_std"] == pytest.approx(1e-3) and record["seed"] == 4  # the line itself comes later
    assert parse_arguments(["recon", "a", "-o", "b", "--config", str(config)]).overwrite is True


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stepz: 3", "unknown option 'stepz'; did you mean 'steps'"),
        ("input: a.h5", "unknown option 'input'"),
        ("config: a.yaml", "unknown option 'config'"),
        ("overwrite: 3", "overwrite must be true or false"),
        ("set: [1]", "set must be a mapping of names to values"),
        ("steps: {a: 1}", "steps must be text or a number"),
        ("steps: *x", "not a YAML file"),
        ("- 3", "holds a list"),
        ("!!python/object/apply:os.system ['true']", "not a YAML file"),
    ],
)
def test_files_of_options_that_cannot_be_used(scan, tmp_path, capsys, text, said):
    path, _ = scan()
    config = tmp_path / "run.yaml"
    config.write_text(text)
    assert main(["recon", str(path), "-o", str(tmp_path / "o"), "--config", str(config)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"medrecon: error: {config}: ") and said in err and err.count("\n") == 1
    with pytest.raises(InputError):
        parse_arguments(["recon", "a", "-o", "b", f"--config={config}"])


def test_values_of_a_file_are_read_as_on_the_line(scan, tmp_path, capsys):
    path, _ = scan()
    config = tmp_path / "run.yaml"
    config.write_text("steps: many")
    with pytest.raises(SystemExit) as stop:
        main(["recon", str(path), "-o", str(tmp_path / "o"), "--config", str(config)])
    assert stop.value.code == 2 and "argument --steps: invalid int value: 'many'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(capsys, shell):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "recon" in script and "map-sets" in script and "posterior" in script and "cg-sense" not in script[:10]
