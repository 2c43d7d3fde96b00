"""Heavy floor: one action per file, each `run(job) -> facts`, executed in a child process."""
