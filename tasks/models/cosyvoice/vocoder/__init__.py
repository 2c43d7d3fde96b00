"""Vocoders from mel spectrograms to waveforms, with their pitch predictors. Heavy."""
