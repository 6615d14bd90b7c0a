"""What the nodes call: one module for each stage, value on a wire, or service of the host."""
