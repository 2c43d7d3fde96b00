"""Compares artifacts with the original model and measures them. Heavy."""
