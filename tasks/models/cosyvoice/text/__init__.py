"""Text tokenizers and their special tokens. Heavy."""
