"""Side by side with peers, as ratios measured in one process: `python -m benchmarks` runs all, `--list` names them."""
