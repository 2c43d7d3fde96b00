"""Reads the YAML of a model folder as data and builds the modules that it describes. Heavy."""
