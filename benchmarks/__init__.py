"""What banger costs: beside the bare work that it stands for, and beside other tools. `python -m benchmarks --help`."""
