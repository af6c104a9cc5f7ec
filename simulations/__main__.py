"""List the simulations, a line each."""

from pathlib import Path

from gradflow.listing import scripts_in

for name, summary in scripts_in(Path(__file__).parent).items():
    print(f"python -m simulations.{name:<16} {summary}")
