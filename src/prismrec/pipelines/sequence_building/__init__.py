"""Stage 2: k-core, index maps, histories as Arrow lists, leave-one-out cut points."""
