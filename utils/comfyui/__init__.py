"""Kandinsky 2.2 as ComfyUI's MODEL, VAE and CONDITIONING: folders, memory, stages, LoRA."""
