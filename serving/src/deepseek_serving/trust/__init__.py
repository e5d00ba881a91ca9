"""Signatures and digests: nothing is loaded that does not verify."""
