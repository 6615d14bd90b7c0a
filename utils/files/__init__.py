"""Model files: headers, weights, architectures, LoRA files, previews. It does not use ComfyUI."""
