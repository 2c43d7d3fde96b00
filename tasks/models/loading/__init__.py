"""Reads checkpoint files safely and loads them strictly into modules, for every model family. Heavy."""
