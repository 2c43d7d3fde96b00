"""Exports a component as a TorchScript file. Heavy."""
