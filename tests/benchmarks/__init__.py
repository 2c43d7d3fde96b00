"""Measurements that are too long or too large for the test run; each is run by hand."""
