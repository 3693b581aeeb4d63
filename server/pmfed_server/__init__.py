"""What the coordinator runs: rounds over a Flower grid, and what a run leaves behind."""
