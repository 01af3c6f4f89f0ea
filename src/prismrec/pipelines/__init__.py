"""The eight pipelines, one package a stage: wiring and thin nodes; no algorithm lives here."""
