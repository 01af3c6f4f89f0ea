"""Serving: the engine that answers without a web server, its types, and the BentoML service around it."""
