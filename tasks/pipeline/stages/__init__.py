"""One file per doit task: the steps of that stage for one part or component of a model. Light and pure."""
