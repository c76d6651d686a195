"""The VMM `firecracker`."""
