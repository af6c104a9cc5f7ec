"""The README: its code prints what it says, its commands run, its pictures are small."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gradflow.listing import scripts_in

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def _run(command, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, shell=isinstance(command, str), capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_code_prints_what_the_readme_says(tmp_path):
    """Its blocks in order, in one process."""
    code = _blocks("python")
    done = _run([sys.executable, "-c", "\n".join(code)], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(_blocks("text")[: len(code)])


@pytest.mark.slow
def test_the_commands_run_and_the_figures_are_drawn_from_their_runs(tmp_path):
    """The commands in order, in an empty folder; installing and pytest are what continuous integration does."""
    blocks = [block for block in _blocks("bash") if "dask" not in block]
    commands = [line.rpartition("&& ")[2] for block in blocks for line in block.splitlines()]
    simulations = [command for command in commands if "simulations" in command or "gradflow.sweep" in command]
    assert len(simulations) == 13
    seconds = {name: int(each) for name, each in re.findall(r"`python -m figures (\w+)` \| (\d+) \|", README)}
    assert set(seconds) == set(scripts_in(ROOT / "figures"))
    figures = " ".join(
        name for name in seconds if seconds[name] < 300
    )  # the others draw sweeps: tests/figures has small ones
    for command in [*simulations, ".venv/bin/python -m derivations", f".venv/bin/python -m figures {figures}"]:
        done = _run(command.replace(".venv/bin/python", sys.executable), tmp_path)
        assert done.returncode == 0, done.stderr
    assert "making it" not in done.stdout  # the figures found the runs of the commands
    assert len(list((tmp_path / "runs" / "figures").rglob("*.png"))) == 33


@pytest.fixture
def here(tmp_path):
    """A folder whose `.venv` is this Python's, and `sbatch` starts a job here and now."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "bin").mkdir()
    for name, text in {
        "sbatch": 'bash "$1" >/dev/null 2>&1 & echo "Submitted batch job $!"',
        "scancel": "true",
    }.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def _run_whole(script, cwd, interpreter, **environment):
    """Run a script and end whatever it leaves behind; exit code, output, errors."""
    path = f"{cwd / 'bin'}:{os.environ['PATH']}"
    said = cwd / "out", cwd / "errors"
    with said[0].open("w") as out, said[1].open("w") as errors:
        process = subprocess.Popen(
            [*interpreter, script], cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": path} | environment,
            stdout=out, stderr=errors, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=300)
        finally:
            with contextlib.suppress(ProcessLookupError):  # nothing was left behind
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, *(path.read_text() for path in said)


@pytest.mark.slow
def test_clusters_and_job_arrays_run_as_the_readme_says(here):
    """A scheduler and workers started by hand; a job array; and jobs through dask-jobqueue, on a stand-in for SLURM."""
    (by_hand,) = (block for block in _blocks("bash") if "dask scheduler" in block)
    code, out, errors = _run_whole(by_hand, here, ["bash", "-c"])
    assert code == 0 and "6 done, 0 failed" in out, errors
    code, out, errors = _run_whole(_blocks("sbatch")[0], here, ["bash", "-c"], SLURM_ARRAY_TASK_ID="5")
    assert code == 0 and "1 done, 0 failed" in out, errors  # of the same folder: nothing is left to do
    (set_up,) = (block for block in _blocks("python") if "Sweep(" in block)
    jobs = _blocks("py")[0].replace("jobs=100", "jobs=2")
    script = f"import gradflow\ngradflow.enable_x64()\n{set_up}\n{jobs}\nprint(run(sweep, 'runs/slurm_sweep'))"
    code, out, errors = _run_whole(script, here, [sys.executable, "-c"], DASK_JOBQUEUE__SLURM__INTERFACE="lo")
    assert code == 0 and "Result(done=6, failed={})" in out, errors


def test_continuous_integration_installs_and_tests_as_the_readme_says():
    script = (ROOT / ".ci" / "run").read_text()
    assert "pip install -e '.[dev]'" in README and re.search(r"install .*-e '?\.\[dev\]'?", script)
    assert ".venv/bin/python -m pytest\n" in README and re.search(r"python\W* -m pytest", script)


def test_what_the_readme_names_is_there():
    for name in re.findall(r"`((?:tests|benchmarks|gradflow)/[\w/]+\.py)`", README) + re.findall(
        r"\]\(((?!http)[^)]+)\)", README
    ):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"^gradflow/(\w+)/", README, flags=re.MULTILINE):
        assert (ROOT / "gradflow" / name).is_dir(), name


def test_the_pictures_are_small():
    pictures = list((ROOT / "figures" / "readme").iterdir())
    assert pictures and all(path.stat().st_size < 200_000 for path in pictures)
