"""The built-in demo model: a small CosyVoice 2 flow and the data it learns from."""
