"""The socket types of this pack, each bound to the Python value that travels on it."""

from comfy_api.latest import io

from ..utils.comfyui.depth_estimator import NativeDepthEstimator
from ..utils.comfyui.prior import NativePrior
from ..utils.kandinsky.values import ImageEmbeds


class Socket(io.ComfyTypeIO):
    source: str  # the nodes to connect it to

    @classmethod
    def take(cls, value):
        """The value as it came; the host lets literals and wires of any type through.

        Raises:
            ValueError: it is not what travels on this wire; says what to connect.
        """
        if isinstance(value, cls.Type):
            return value
        raise ValueError(
            f"{value!r:.80} came where a {cls.io_type} belongs. Connect {cls.source} there."
        )


@io.comfytype(io_type="KANDINSKY22_PRIOR")
class Prior(Socket):
    Type = NativePrior
    source = "Load Prior"


@io.comfytype(io_type="KANDINSKY22_EMBEDS")
class Embeds(Socket):
    Type = ImageEmbeds
    source = "Prior, or another node that gives embeddings,"


@io.comfytype(io_type="KANDINSKY22_DEPTH_ESTIMATOR")
class DepthEstimator(Socket):
    Type = NativeDepthEstimator
    source = "Load Depth Estimator"
