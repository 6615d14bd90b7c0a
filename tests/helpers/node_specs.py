"""Read the inputs and outputs of the nodes for random graphs."""

from dataclasses import dataclass
from typing import Any

OURS = "Kandinsky22"
# Nodes of ComfyUI that run our models.
RUNNERS = """
KSampler KSamplerAdvanced SamplerCustom SamplerCustomAdvanced
VAEEncode VAEEncodeTiled VAEEncodeForInpaint VAEDecode VAEDecodeTiled
""".split()
# More nodes with our types. Those that an older ComfyUI does not have are left out.
HOSTS = """
EmptyLatentImage RandomNoise DisableNoise AddNoise KSamplerSelect BasicScheduler SplitSigmas
FlipSigmas SetFirstSigma BasicGuider CFGGuider DualCFGGuider PerpNegGuider
LatentBatch RepeatLatentBatch LatentFromBatch RebatchLatents LatentUpscale LatentUpscaleBy
LatentCrop LatentFlip LatentRotate LatentComposite LatentCompositeMasked LatentBlend LatentAdd
LatentSubtract LatentMultiply LatentInterpolate LatentBatchSeedBehavior SetLatentNoiseMask
EmptyImage ImageScale ImageScaleBy ImageBatch ImageFromBatch RepeatImageBatch RebatchImages
ImageCrop ImageInvert ImagePadForOutpaint ImageCompositeMasked ImageBlend ImageFlip
JoinImageWithAlpha SplitImageWithAlpha PorterDuffImageComposite ResizeAndPadImage
SolidMask MaskComposite InvertMask GrowMask FeatherMask CropMask ThresholdMask ImageToMask
ImageColorToMask MaskToImage CLIPVisionEncode TinyClipVision GetImageSize
ConditioningAverage ConditioningCombine ConditioningSetArea ConditioningSetAreaPercentage
ConditioningSetMask ConditioningZeroOut ConditioningSetTimestepRange ConditioningMultiply
ConditioningSetAreaStrength ConditioningSetDefaultCombine
ModelMergeSimple ModelMergeAdd ModelMergeSubtract ModelMergeBlocks LoraLoaderModelOnly CFGOverride
""".split()
# These have our types, too, but are for other models, or only for samplers.
FOREIGN = """
EmptySD3LatentImage EmptyHunyuanLatentVideo EmptyAceStepLatentAudio LTXVConcatAVLatent
LatentConcat LatentCut LatentCutToBatch InpaintModelConditioning InstructPixToPixConditioning
ConditioningConcat unCLIPConditioning ReferenceLatent FluxGuidance
RescaleCFG RenormCFG Mahiro FreeU_V2 PerturbedAttentionGuidance DifferentialDiffusion EasyCache
LazyCache ModelSamplingDiscrete HyperTile TomePatchModel PatchModelAddDownscale PerpNeg CFGZeroStar
ContextWindowsManual UNetSelfAttentionMultiply ModelNoiseScale ModelComputeDtype
""".split()

PRIMITIVES = {kind: f"Primitive{kind.title()}" for kind in ("INT", "FLOAT", "STRING", "BOOLEAN")}
SWITCH = "ComfySwitchNode"  # passes any value to any input, and avoids ComfyUI's own validation
NESTED = "COMFY_DYNAMICCOMBO_V3"
WIDGETS = {*PRIMITIVES, "COMBO", NESTED}


@dataclass(frozen=True, repr=False)  # hypothesis would print the values
class Input:
    kind: str
    options: dict[str, Any]
    required: bool

    def nested(self, key: str) -> "dict[str, Input]":
        """Return the inputs that come with a choice of a NESTED one."""
        options = {option["key"]: option["inputs"] for option in self.options["options"]}
        return read_inputs(options[key])


@dataclass(frozen=True, repr=False)
class Spec:
    """The inputs and outputs of a node, as ComfyUI reports them."""

    inputs: dict[str, Input]
    outputs: list[str]

    @property
    def sockets(self) -> list[str]:
        """The types of its required wires."""
        inputs = list(self.inputs.values())
        for nested in [each for each in inputs if each.kind == NESTED]:
            inputs += nested.nested(nested.options["options"][0]["key"]).values()
        return [each.kind for each in inputs if each.required and each.kind not in WIDGETS]


def read_inputs(types: dict[str, Any]) -> dict[str, Input]:
    inputs = {}
    for section in ("required", "optional"):
        for name, (kind, *options) in types.get(section, {}).items():
            known = options[0] if options else {}
            if isinstance(kind, list):  # V1 nodes write a COMBO in this way
                kind, known = "COMBO", {**known, "options": kind}
            inputs[name] = Input(str(kind), known, section == "required")
    return inputs


def read_specs(classes: dict[str, Any]) -> dict[str, Spec]:
    """Read the nodes for graphs, as this ComfyUI has them."""
    ours = [name for name in classes if name.startswith(OURS) and name != f"{OURS}GetModels"]
    known = [
        name
        for name in (*ours, *RUNNERS, *HOSTS, *FOREIGN, *PRIMITIVES.values(), SWITCH)
        if name in classes
    ]
    return {
        name: Spec(
            read_inputs(classes[name].INPUT_TYPES()), list(map(str, classes[name].RETURN_TYPES))
        )
        for name in known
    }


def shortest(specs: dict[str, Spec]) -> dict[str, list[str]]:
    """Return type of wire → the nodes that give it and need the fewest nodes before them."""
    ends: dict[str, list[str]] = {}
    while True:
        ready = {name: spec for name, spec in specs.items() if set(spec.sockets) <= set(ends)}
        fresh = {kind for spec in ready.values() for kind in spec.outputs} - set(ends)
        if not fresh:
            return ends
        for kind in fresh:
            ends[kind] = [name for name, spec in ready.items() if kind in spec.outputs]
