"""Artefacts on disk: model folders, atomic writes, manifests and the check of their lineage."""
