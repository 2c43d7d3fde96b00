"""Vocoders from mel spectrograms to waveforms, and their pitch predictors. Heavy."""
