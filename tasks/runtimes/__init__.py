"""Heavy floor: one inference engine per file behind the contract in `contract.py`."""
