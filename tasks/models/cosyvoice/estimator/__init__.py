"""Estimators of the flow's velocity: UNet and DiT. Heavy."""
