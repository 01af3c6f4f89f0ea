"""Peers on our split: one command prepares the data, one runs a peer, one scores every output, ours and theirs.

Modules that peers' interpreters run (`exchange`, `cells`, `measure`, `registry`, `run` and the `*_peers`) import
numpy and the peer's own packages only, never prismrec: a peer has an environment of its own.
"""
