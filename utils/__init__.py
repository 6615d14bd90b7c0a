"""What the nodes call, in four rooms: kandinsky, files, comfyui, download. See docs/design.md."""
