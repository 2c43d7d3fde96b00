"""Tests of tasks/runtimes."""
