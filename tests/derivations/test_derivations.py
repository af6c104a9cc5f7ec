"""Every derivation proves its steps and agrees with gradflow's own code; proofs and checks can fail."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import derivations
from derivations import __main__ as command
from derivations import _proof
from gradflow.listing import scripts_in

FOLDER = Path(derivations.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("name", scripts_in(FOLDER))
def test_it_is_proved_and_agrees_with_the_code(name):
    derivation = import_module(f"derivations.{name}").derive()
    assert derivation.steps and derivation.checks
    for check in derivation.checks:
        assert check.allowed <= 1e-10 and check.deviation <= check.allowed, check


def test_a_step_that_does_not_hold_is_named_with_what_is_left():
    x = sp.Symbol("x")
    _proof.require_zero("square", (x + 1) ** 2 - x**2 - 2 * x - 1, sp.zeros(2, 2))
    with pytest.raises(_proof.NotProved, match="square: 1 is left"):
        _proof.require_zero("square", sp.Matrix([0, (x + 1) ** 2 - x**2 - 2 * x]))


def test_a_deviation_is_relative_to_the_largest_number_and_blind_to_nothing():
    assert _proof.compare("numbers", [100.0, 1.0], [100.0, 2.0]).deviation == pytest.approx(0.01)
    assert not _proof.compare("numbers", [100.0, 1.0], [100.0, 1.0 + 1e-7]).holds
    for bad in ([1.0, np.nan], [1.0]):
        with pytest.raises(_proof.NotProved):
            _proof.compare("numbers", bad, [1.0, 1.0])


def test_the_command_prints_a_line_each_and_writes_the_proofs(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "derivations", *arguments, "--out", str(tmp_path)]
        return subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True)

    done = run("softmax")
    assert done.returncode == 0 and done.stdout.startswith("derived  Softmax"), done.stderr
    assert r"\operatorname{diag}(p)" in (tmp_path / "derivations.md").read_text()
    unknown = run("nonsense")
    assert unknown.returncode == 2 and unknown.stderr.count("\n") == 1 and "softmax" in unknown.stderr


def test_a_step_that_fails_ends_neither_the_command_nor_its_document(tmp_path, monkeypatch, capsys):
    def fails():
        _proof.require_zero("a step", sp.Symbol("x"))

    monkeypatch.setattr("derivations.balancing.derive", fails)
    monkeypatch.setattr(sys, "argv", ["derivations", "balancing", "softmax", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 1
    failed, derived, _ = capsys.readouterr().out.splitlines()
    assert failed == "FAILS    balancing: a step: x is left." and derived.startswith("derived  Softmax")
    document = (tmp_path / "derivations.md").read_text()
    assert "## balancing\n\nNot proved: a step: x is left." in document and r"\operatorname{diag}(p)" in document
