"""Depth Hint: picture → depth map, which the ControlNet stages follow."""

from typing import Any

from comfy_api.latest import io, ui

from .sockets import DEPTH_ESTIMATOR


class DepthHint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="Kandinsky22DepthHint",
            display_name="Depth Hint (Kandinsky 2.2)",
            category="Kandinsky 2.2/hint",
            description="Makes a depth map of a picture: white is near, black is far. The output "
            "hint is an IMAGE; a depth map from any other node works in its place, too.",
            search_aliases=["depth map", "controlnet preprocessor", "depth anything", "MiDaS"],
            inputs=[DEPTH_ESTIMATOR.input("depth_estimator"), io.Image.Input("image")],
            outputs=[io.Image.Output(id="hint", display_name="hint")],
        )

    @classmethod
    def execute(cls, depth_estimator: Any, image: Any) -> io.NodeOutput:
        hint = DEPTH_ESTIMATOR.take(depth_estimator).estimate(image)
        return io.NodeOutput(hint, ui=ui.PreviewImage(hint, cls=cls))
