"""Stage 2: k-core, index maps, histories as Arrow lists, cut points of the protocol."""
