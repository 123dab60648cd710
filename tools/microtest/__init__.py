"""One kernel under the lamp: is it right, and how close is it to the hardware's limit?

Start at `harness.py`, which runs an operation on a case; `reference/` holds each one's float64 reference and cases.
"""
