"""The wires between nodes: the type of each socket, and the Python value that travels on it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from comfy_api.latest import io

from ..utils.kandinsky.image_embeds import ImageEmbeds

if TYPE_CHECKING:
    from ..utils.comfyui.depth_estimator import LoadedDepthEstimator
    from ..utils.comfyui.prior import LoadedPrior

Value = TypeVar("Value")


class Socket(Generic[Value]):
    """A type of socket of this pack, bound to the class of its values."""

    def __init__(self, io_type: str, kind: Callable[[], type[Value]], source: str):
        """Make a socket.

        Args:
            kind: imports and returns the class. ComfyUI does not wait for it when it starts.
            source: names the nodes to connect it to, for messages.
        """
        self.io_type = io_type
        self.kind = kind
        self.source = source
        self.comfy_type = io.Custom(io_type)

    def input(self, id: str, **options: Any) -> io.Input:
        return self.comfy_type.Input(id, **options)

    def output(self, id: str) -> io.Output:
        return self.comfy_type.Output(id=id, display_name=id)

    def take(self, value: Any) -> Value:
        """Return the value unchanged. ComfyUI accepts literals and wires of any type.

        Raises:
            ValueError: the value does not belong to this socket. The message says what to connect.
        """
        if isinstance(value, self.kind()):
            return value
        raise ValueError(
            f"{value!r:.80} came where a {self.io_type} belongs. Connect {self.source} there."
        )


def prior_class() -> "type[LoadedPrior]":
    from ..utils.comfyui.prior import LoadedPrior

    return LoadedPrior


def depth_estimator_class() -> "type[LoadedDepthEstimator]":
    from ..utils.comfyui.depth_estimator import LoadedDepthEstimator

    return LoadedDepthEstimator


PRIOR = Socket("KANDINSKY22_PRIOR", prior_class, "Load Prior")
EMBEDS = Socket(
    "KANDINSKY22_EMBEDS", lambda: ImageEmbeds, "Prior, or another node that gives embeddings,"
)
DEPTH_ESTIMATOR = Socket(
    "KANDINSKY22_DEPTH_ESTIMATOR", depth_estimator_class, "Load Depth Estimator"
)
