"""Golden traces: what a reference gave, kept in files, for where its framework is not."""
