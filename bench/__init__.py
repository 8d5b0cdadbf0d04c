"""The benchmarks: every figure is a ratio to a bare or raw twin, measured in the same run. See README.md."""
