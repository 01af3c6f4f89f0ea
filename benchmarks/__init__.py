"""Measurements that are not tests: against peers, against other implementations, of speed."""
