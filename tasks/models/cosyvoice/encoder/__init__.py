"""Encoders of token sequences: transformer, conformer, up-sampling, look-ahead. Heavy."""
