"""What this machine has: memory, GPUs and the installed TensorRT, found without starting CUDA. Light."""
