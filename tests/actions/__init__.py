"""Tests of tasks/actions."""
