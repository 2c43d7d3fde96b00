"""Reads checkpoints safely and loads them strictly into modules, for every family. Heavy."""
