"""Heavy floor: the model families, as modules with the published state_dict names."""
