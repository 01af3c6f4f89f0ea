"""Stage 1: read a source, check it against the data contract, quarantine bad rows, report."""
