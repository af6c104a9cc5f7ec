"""What all scripts share: presets, stored configurations, listings, and how they say no."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

import figures
import gradflow
import simulations
from gradflow import dynamics
from gradflow.errors import InputError
from gradflow.listing import scripts_in
from gradflow.scripts import one_line_errors, parse


@dataclasses.dataclass(frozen=True)
class Config:
    preset: str = "small"
    size: int = 3
    out: Path = Path("runs/x")


PRESETS = {"small": Config(), "large": Config("large", 300)}
ROOT = Path(simulations.__file__).parents[1]


def test_flags_override_the_preset_and_the_preset_overrides_the_default():
    assert parse(PRESETS, "doc", []) == Config()
    assert parse(PRESETS, "doc", ["--preset", "large"]).size == 300
    assert parse(PRESETS, "doc", ["--preset", "large", "--size", "7"]) == Config("large", 7)


def test_a_stored_configuration_is_enough_to_run_again(tmp_path):
    first = parse(PRESETS, "doc", ["--preset", "large", "--size", "7", "--out", str(tmp_path)])
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(dataclasses.asdict(first), default=str))
    assert parse(PRESETS, "doc", ["--config", str(stored)]) == first
    assert parse(PRESETS, "doc", ["--config", str(stored), "--size", "9"]) == dataclasses.replace(first, size=9)


@dataclasses.dataclass(frozen=True)
class Lists:
    scales: tuple[float, ...] = (0.5, 2.0)
    file: Path | None = None
    out: Path = Path("runs/x")


def test_tuples_and_paths_come_back_from_a_stored_configuration(tmp_path):
    first = Lists(scales=(1.0, 3.0), file=tmp_path / "questions.txt")
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(first), default=str))
    assert parse({"small": Lists()}, "doc", ["--config", str(tmp_path / "config.json")]) == first


def test_a_configuration_of_another_script_or_a_broken_one_is_refused(tmp_path):
    stored = tmp_path / "config.json"
    stored.write_text('{"temperature": 1}')
    with pytest.raises(InputError, match="another script: it has temperature"):
        parse(PRESETS, "doc", ["--config", str(stored)])
    stored.write_text('{"size": ')
    with pytest.raises(InputError, match="Cannot read"):
        parse(PRESETS, "doc", ["--config", str(stored)])


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(InputError, match="known are small, large"):
        parse(PRESETS, "doc", ["--preset", "huge"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [(InputError("n is odd."), 2, "error: n is odd.\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_errors_are_one_line_with_their_exit_code(error, code, line, capsys):
    with pytest.raises(SystemExit) as left, one_line_errors():
        raise error
    assert left.value.code == code and capsys.readouterr().err == line


@pytest.mark.parametrize("package", [simulations, figures])
def test_every_script_is_listed_with_a_line_that_says_what_it_is(package):
    listing = scripts_in(Path(package.__file__).parent)
    assert listing and all(len(summary) > 20 for summary in listing.values())


def test_help_and_listings_do_not_import_jax():
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "for module in {modules}:\n"
        "    try: runpy.run_module(module, run_name='__main__')\n"
        "    except SystemExit: pass\n"
        "assert 'jax' not in sys.modules and 'matplotlib' not in sys.modules and 'xarray' not in sys.modules\n"
    )
    modules = ["simulations", "figures", *(f"simulations.{name}" for name in scripts_in(ROOT / "simulations"))]
    done = subprocess.run(
        [sys.executable, "-c", code.format(modules=modules)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--learning-rate" in done.stdout


def test_importing_gradflow_changes_no_setting_of_jax():
    code = "import gradflow, sys; assert 'jax' not in sys.modules; gradflow.gradient_flow; import jax; assert not jax.config.jax_enable_x64"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_the_package_offers_is_there():
    assert all(getattr(gradflow, name) is not None for name in gradflow.__all__)
    assert set(dynamics.__all__) < set(gradflow.__all__)
