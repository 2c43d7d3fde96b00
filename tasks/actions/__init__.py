"""What the child runs: a verb per file or package, each with `run(job)`; inputs/ and original.py are shared. Heavy."""
