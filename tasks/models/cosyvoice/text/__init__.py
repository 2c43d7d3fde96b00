"""Text tokenizers of the families and their special tokens. Heavy."""
