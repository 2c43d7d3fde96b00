"""The way to a step's own process and back: request, launcher, worker, outcome. Light but for what the worker runs."""
