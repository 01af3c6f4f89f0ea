"""Protocols, tables and plots."""
