"""CosyVoice 1, 2 and 3: the folder's loader and the layers that several networks share. Heavy."""
