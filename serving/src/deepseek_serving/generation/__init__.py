"""Continuous batching, sampling and constrained decoding; plain values in, events out."""
