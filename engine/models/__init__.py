"""The forward passes, one model family a file."""
