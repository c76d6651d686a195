"""The network kind `tap`."""
