"""Language models from text tokens to speech tokens, one file per model generation. Heavy."""
