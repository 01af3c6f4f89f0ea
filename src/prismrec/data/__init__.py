"""From raw logs to histories: sources, the data contract, sequences, splits, and the synthetic world."""
