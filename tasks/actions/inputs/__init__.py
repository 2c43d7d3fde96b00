"""Inputs that artifacts are run on: generated from a declaration, or recorded. Heavy."""
