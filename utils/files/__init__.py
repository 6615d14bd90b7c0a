"""Model files: headers, weights, architectures, LoRA files, previews. No ComfyUI."""
