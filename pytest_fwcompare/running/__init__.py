"""Both sides run: weights supplied, layouts made equal, what comes out observed as arrays."""
