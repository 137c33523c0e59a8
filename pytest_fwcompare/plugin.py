"""Pytest hooks and nothing else."""
