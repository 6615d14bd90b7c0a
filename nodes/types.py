"""The socket types of this pack, each bound to the Python value that travels on it."""

from comfy_api.latest import io

from ..utils.native_depth import NativeDepthEstimator
from ..utils.native_prior import NativePrior
from ..utils.values import ImageEmbeds


@io.comfytype(io_type="KANDINSKY22_PRIOR")
class Prior(io.ComfyTypeIO):
    Type = NativePrior


@io.comfytype(io_type="KANDINSKY22_EMBEDS")
class Embeds(io.ComfyTypeIO):
    Type = ImageEmbeds


@io.comfytype(io_type="KANDINSKY22_DEPTH_ESTIMATOR")
class DepthEstimator(io.ComfyTypeIO):
    Type = NativeDepthEstimator
