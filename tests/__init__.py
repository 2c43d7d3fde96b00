"""Tests; a package, so that tests in subfolders can import tests.support.golden_cases."""
