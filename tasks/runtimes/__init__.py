"""The engines that run artifacts, each behind the contract in base.py. Heavy."""
