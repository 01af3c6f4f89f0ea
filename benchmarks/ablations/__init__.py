"""Ablations of HyMiRec and GemiRec: what each part is worth, one JSON a cell; see `benchmarks/README.md`."""
