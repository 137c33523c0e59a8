"""The gate: a baseline of recorded figures, what changed against it, and whose doing that was."""
