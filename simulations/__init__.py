"""One script an experiment: `python -m simulations` lists them, `python -m simulations.NAME --help` shows its flags."""
