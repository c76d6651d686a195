"""The parts of the simulated host, one noun each. `banger.testing` puts them together and is what tests import."""
