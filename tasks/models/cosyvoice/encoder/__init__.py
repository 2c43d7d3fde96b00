"""Encoders of token sequences: transformer, conformer, upsampling, look-ahead. Heavy."""
