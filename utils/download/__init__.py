"""The Hugging Face Hub: what is published, fetched, checked and stored. No torch, no ComfyUI."""
