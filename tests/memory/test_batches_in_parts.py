"""A batch that has no room on the device is cut into parts that have, and nothing else changes.

The card is simulated: memory of the CPU under another name, which ComfyUI's own code fills and
frees, and of which as much is free as the models loaded there leave.
"""

from helpers.module_calls import *  # noqa: F403
