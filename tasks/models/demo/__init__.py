"""The built-in demo model: a small CosyVoice 2 flow and its synthetic training data."""
