"""voxkiln: speech-model checkpoints to verified, deployable artifacts, as a doit workflow."""
