"""Flow-matching models from speech tokens to mel spectrograms, one file per model generation. Heavy."""
