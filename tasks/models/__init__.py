"""The model families, one package each, under the state_dict names of the original implementations. Heavy."""
