"""TensorRT engines: loading, calling from several threads, and a plan's inputs and outputs. Heavy."""
