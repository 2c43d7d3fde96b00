"""The graph of steps as a value: what is made from what, in which stage, and what is skipped. Light and pure."""
