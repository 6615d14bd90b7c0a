"""The Hugging Face Hub: list, download, check and store models.

It uses neither torch nor ComfyUI.
"""
