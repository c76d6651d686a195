"""Converge a Linux host's microVMs from a YAML playbook."""
