"""Long campaigns of seeded cases; each prints one line with its counts: pytest -m slow tests/campaigns -s."""
