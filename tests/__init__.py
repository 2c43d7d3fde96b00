"""Tests; a package, so that tests in subfolders can import tests.golden_cases."""
