"""The benchmarks: most figures are a ratio to a baseline that is measured in the same run. See README.md."""
