"""What the child runs: one verb per file or package, each with `run(job)`; inputs/ and original.py are shared. Heavy."""
