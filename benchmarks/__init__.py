"""Speed as ratios against named peers, measured in one process: `make bench` runs them all."""
