"""What can be set: the schema, its composition by Hydra, overrides, validation, and the tables they share. Light."""
