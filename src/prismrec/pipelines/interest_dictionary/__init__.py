"""Stage 6: GemiRec's dictionary, posterior and retrieval, in three sub-groups."""
