"""The model itself: tensors in, tensors out. torch, diffusers, transformers; no ComfyUI."""
