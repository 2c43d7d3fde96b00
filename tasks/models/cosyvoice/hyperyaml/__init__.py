"""Reads a model folder's YAML as data and builds the modules that it describes. Heavy."""
