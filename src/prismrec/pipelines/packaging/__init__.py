"""Stage 8, `packaging`: all models in one bundle, the bundle in the BentoML model store, and a Bento."""
