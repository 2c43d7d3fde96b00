"""Estimators of the velocity of a flow: UNet and DiT. Heavy."""
