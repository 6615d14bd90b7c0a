"""The code that the nodes call: kandinsky, files, comfyui, download. See docs/design.md."""
