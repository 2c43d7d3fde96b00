"""CosyVoice 1, 2 and 3: the loader of a model folder, and functions that several networks share. Heavy."""
