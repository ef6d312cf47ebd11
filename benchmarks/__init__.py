"""Benchmarks: every claim of speed as a ratio to its baseline, measured in the same run.

`python -m benchmarks [PART...]` measures and writes `results/DATE-PART.json` with every single sample;
`python -m benchmarks.report` makes the tables of `docs/benchmarks.md` from the newest of these. A part is one module
with a function `measure`, and one line in `benchmarks.parts`.
"""
