"""Trains models: engines, data, objectives, checkpointing. Heavy."""
