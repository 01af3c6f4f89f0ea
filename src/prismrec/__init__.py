"""prismrec: multi-interest sequential recommendation with LLMs, from raw logs to a served model."""

__version__ = "0.1.0"
