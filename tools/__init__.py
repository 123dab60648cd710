"""What a person runs: `python -m tools.generate` and its siblings."""
