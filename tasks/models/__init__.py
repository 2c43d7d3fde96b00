"""Model families, one package each, with the state_dict names of the original implementations. Heavy."""
