"""The model itself: tensors in, tensors out.

It uses torch, diffusers and transformers, not ComfyUI.
"""
