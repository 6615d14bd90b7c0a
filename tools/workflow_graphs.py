"""The shipped workflows, as graphs: what `make_workflows.py` turns into files.

Every one runs as it is on the bundled miniature, pictures included: they are drawn in the graph
with ComfyUI's own nodes, and a note says what to put in their place.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.graph import (
    BLACK,
    DEPTH,
    ESTIMATOR,
    GREEN,
    INPAINT,
    SIZE,
    YELLOW,
    Graph,
    Node,
    embeds_of,
)


def text_to_image() -> Graph:
    g = Graph("text_to_image")
    g.note(
        "**Text to image.** Press Run.\n\n"
        "The small bundled model knows circles, squares and triangles in six colours. For real "
        "pictures run *Get Models* once (16 GB), press R, choose *kandinsky-2-2-prior* and "
        "*kandinsky-2-2-decoder* in the two loaders, make the canvas 768 × 768, and write what "
        "you like.\n\n"
        "The row below is the variant of the diffusers guide: prior cfg 1, half the prior's time. "
        "Select its nodes and press Ctrl+B to switch it on."
    )
    prior, model = g.loaders()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a large red circle on a blue background"
    )
    canvas = g.canvas()
    latent = g.add(
        "Kandinsky22Decoder", model=model[0], **embeds_of(prompt), latent=canvas[0], seed=1
    )
    g.save(latent, model)
    guide = g.add(
        "Kandinsky22Prior",
        "Prior, as in the guide",
        off=True,
        prior=prior[0],
        prompt="a large red circle on a blue background",
        cfg=1.0,
    )
    second = g.add(
        "Kandinsky22Decoder",
        off=True,
        model=model[0],
        **embeds_of(guide),
        latent=canvas[0],
        seed=1,
    )
    image = g.add("VAEDecode", off=True, samples=second[0], vae=model[1])
    g.add("PreviewImage", off=True, images=image[0])
    return g


def image_to_image() -> Graph:
    g = Graph("image_to_image")
    g.note(
        "**Image to image.** Changes the picture towards the prompt; *denoise* says how far.\n\n"
        "For your own: put *Load Image* in place of the drawn picture, and choose "
        "*kandinsky-2-2-prior* and *kandinsky-2-2-decoder*. diffusers' own setting is denoise 0.3 "
        "with 100 steps."
    )
    prior, model = g.loaders()
    picture = g.picture()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow square on a blue background"
    )
    start = g.add("VAEEncode", pixels=picture[0], vae=model[1])
    latent = g.add(
        "Kandinsky22Img2Img",
        model=model[0],
        **embeds_of(prompt),
        latent=start[0],
        seed=1,
        denoise=0.7,
    )
    g.save(latent, model)
    return g


def paste_back(g: Graph, latent: Node, model: Node, picture: Node, mask) -> None:
    """Decode, and put the untouched pixels back, so that they stay the same to the bit."""
    image = g.add("VAEDecode", samples=latent[0], vae=model[1])
    whole = g.add(
        "ImageCompositeMasked",
        "Put the rest back",
        stage="Pixels",
        destination=picture[0],
        source=image[0],
        mask=mask,
    )
    g.add("SaveImage", images=whole[0], filename_prefix=f"kandinsky22/{g.name}")


def inpaint() -> Graph:
    g = Graph("inpaint")
    g.note(
        "**Inpaint.** What is white in the mask is repainted; what is black stays, to the bit: "
        "the last node puts it back over MoVQ's version of it.\n\n"
        "For your own: *Load Image* (draw the mask with *Open in MaskEditor*, and use both of its "
        "outputs), *kandinsky-2-2-prior* and *kandinsky-2-2-decoder-inpaint* (*Get Models*, "
        "inpaint). The prompt names the whole picture, not only the new part."
    )
    prior, model = g.loaders(INPAINT)
    picture = g.picture()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow circle on a blue background"
    )
    whole = g.add("VAEEncode", pixels=picture[0], vae=model[1])
    mask = g.box_mask(24, 24, 80, 80)
    latent = g.add(
        "Kandinsky22Inpaint",
        model=model[0],
        **embeds_of(prompt),
        latent=whole[0],
        mask=mask[0],
        seed=1,
    )
    paste_back(g, latent, model, picture, mask[0])
    return g


def outpaint() -> Graph:
    g = Graph("outpaint")
    g.note(
        "**Outpaint.** *Pad Image for Outpainting* makes the picture larger and gives the mask of "
        "what is new; Inpaint fills it.\n\n"
        "For your own: *Load Image*, *kandinsky-2-2-prior*, *kandinsky-2-2-decoder-inpaint*, and "
        "padding in multiples of 64."
    )
    prior, model = g.loaders(INPAINT)
    picture = g.picture()
    padded = g.add(
        "ImagePadForOutpaint",
        image=picture[0],
        left=64,
        top=0,
        right=64,
        bottom=0,
        feathering=0,
    )
    prompt = g.add("Kandinsky22Prior", prior=prior[0], prompt="a red square on a blue background")
    whole = g.add("VAEEncode", pixels=padded[0], vae=model[1])
    latent = g.add(
        "Kandinsky22Inpaint",
        model=model[0],
        **embeds_of(prompt),
        latent=whole[0],
        mask=padded[1],
        seed=1,
    )
    paste_back(g, latent, model, padded, padded[1])
    return g


def interpolate() -> Graph:
    g = Graph("interpolate")
    g.note(
        "**Mix pictures and words.** Two pictures and a prompt become one embedding; the weights "
        "say how much of each. *count* on Interpolate makes room for up to eight.\n\n"
        "For your own: *Load Image* twice, *kandinsky-2-2-prior* and *kandinsky-2-2-decoder*."
    )
    prior, model = g.loaders()
    one = g.picture()
    two = g.picture(back=GREEN, front=YELLOW, stage="Second picture")
    first = g.add("Kandinsky22EncodeImage", prior=prior[0], image=one[0])
    second = g.add("Kandinsky22EncodeImage", prior=prior[0], image=two[0])
    words = g.add("Kandinsky22Prior", prior=prior[0], prompt="a red circle on a blue background")
    mixed = g.add(
        "Kandinsky22Interpolate",
        **{
            "count": "3",
            "count.image_embeds_1": first[0],
            "count.weight_1": 0.3,
            "count.image_embeds_2": second[0],
            "count.weight_2": 0.3,
            "count.image_embeds_3": words[0],
            "count.weight_3": 0.4,
        },
    )
    canvas = g.canvas()
    latent = g.add(
        "Kandinsky22Decoder",
        model=model[0],
        image_embeds=mixed[0],
        negative_image_embeds=words[1],
        latent=canvas[0],
        seed=1,
    )
    g.save(latent, model)
    return g


def morph() -> Graph:
    g = Graph("morph")
    g.note(
        "**Morph.** Eight embeddings on the way from one prompt to another; one canvas gives every "
        "frame the same noise, so that only the contents move.\n\n"
        "For your own: *kandinsky-2-2-prior*, *kandinsky-2-2-decoder*, a 768 × 768 canvas, more "
        "frames."
    )
    prior, model = g.loaders()
    start = g.add(
        "Kandinsky22Prior",
        "From",
        prior=prior[0],
        prompt="a red circle on a white background",
    )
    end = g.add(
        "Kandinsky22Prior", "To", prior=prior[0], prompt="a blue circle on a black background"
    )
    frames = g.add(
        "Kandinsky22InterpolateSequence",
        start_embeds=start[0],
        end_embeds=end[0],
        frames=8,
    )
    canvas = g.canvas()
    latent = g.add(
        "Kandinsky22Decoder",
        model=model[0],
        image_embeds=frames[0],
        negative_image_embeds=start[1],
        latent=canvas[0],
        seed=1,
    )
    images = g.save(latent, model)
    g.add(
        "SaveAnimatedWEBP",
        images=images[0],
        filename_prefix="kandinsky22/morph",
        fps=6.0,
        lossless=False,
        quality=90,
        method="default",
    )
    return g


def depth_of(g: Graph, picture: Node) -> Node:
    estimator = g.add("Kandinsky22LoadDepthEstimator", model_name=ESTIMATOR)
    hint = g.add("Kandinsky22DepthHint", depth_estimator=estimator[0], image=picture[0])
    return hint


def depth_controlnet() -> Graph:
    g = Graph("depth_controlnet")
    g.note(
        "**Depth to image.** The depth of one picture, the contents of a prompt. Any depth map of "
        "any other node does as a hint, too.\n\n"
        "For your own: *Load Image*, *kandinsky-2-2-prior*, *kandinsky-2-2-controlnet-depth* and "
        "*Depth-Anything-V2-Small-hf* (*Get Models*, depth-controlnet), a 768 × 768 canvas. "
        "The guide's prompt is *A robot, 4k photo*."
    )
    prior, model = g.loaders(DEPTH)
    picture = g.picture()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow square on a black background"
    )
    hint = depth_of(g, picture)
    canvas = g.canvas()
    latent = g.add(
        "Kandinsky22ControlNet",
        model=model[0],
        **embeds_of(prompt),
        latent=canvas[0],
        hint=hint[0],
        seed=1,
    )
    g.save(latent, model)
    return g


def depth_controlnet_img2img() -> Graph:
    g = Graph("depth_controlnet_img2img")
    g.note(
        "**Image to image along its depth:** the robot cat of the diffusers guide. The picture's "
        "embedding goes 0.85 of the way to the prompt, the negative one all the way to what is "
        "not wanted; denoise 0.5, 50 steps.\n\n"
        "For the cat: *Load Image* at 768 × 768, *kandinsky-2-2-prior*, "
        "*kandinsky-2-2-controlnet-depth*, a depth estimator; prompt *A robot, 4k photo*; "
        "negative *lowres, text, error, cropped, worst quality, low quality, jpeg artifacts, ugly, "
        "duplicate, out of frame, mutation, deformed, blurry, bad anatomy, bad proportions, "
        "watermark, signature*."
    )
    prior, model = g.loaders(DEPTH)
    picture = g.picture()
    seen = g.add("Kandinsky22EncodeImage", prior=prior[0], image=picture[0])
    hint = depth_of(g, picture)
    start = g.add("VAEEncode", pixels=picture[0], vae=model[1])
    wanted = g.add(
        "Kandinsky22PriorEmb2Emb",
        "Prompt",
        prior=prior[0],
        image_embeds=seen[0],
        prompt="a yellow square on a black background",
        strength=0.85,
        seed=43,
    )
    unwanted = g.add(
        "Kandinsky22PriorEmb2Emb",
        "Negative",
        prior=prior[0],
        image_embeds=seen[0],
        prompt="a red circle on a white background",
        strength=1.0,
        seed=43,
    )
    latent = g.add(
        "Kandinsky22ControlNetImg2Img",
        model=model[0],
        image_embeds=wanted[0],
        negative_image_embeds=unwanted[0],
        latent=start[0],
        hint=hint[0],
        seed=43,
        denoise=0.5,
    )
    g.save(latent, model)
    return g


def inpaint_hat() -> Graph:
    g = Graph("inpaint_hat")
    g.note(
        "**A hat for the cat:** the recipe of the inpaint model card. The mask is drawn in the "
        "graph: a box above the head.\n\n"
        "For the cat: *Load Image* at 768 × 768, *kandinsky-2-2-prior*, "
        "*kandinsky-2-2-decoder-inpaint*, prompt *a hat*, 150 steps; *Keep* 768 × 768, *Repaint* "
        "268 × 250, *Mask* at x 250, y 0.\n\n"
        "Masks from before diffusers 0.19 are black where they repaint: switch *Invert Mask* on "
        "for them (Ctrl+B)."
    )
    prior, model = g.loaders(INPAINT)
    picture = g.picture(back=GREEN, front=BLACK, at=40, side=56)
    prompt = g.add(
        "Kandinsky22Prior",
        prior=prior[0],
        prompt="a white triangle on a green background, at the top",
    )
    whole = g.add("VAEEncode", pixels=picture[0], vae=model[1])
    mask = g.box_mask(40, 0, 56, 40)
    invert = g.add("InvertMask", "Invert Mask (old polarity only)", off=True, mask=mask[0])
    latent = g.add(
        "Kandinsky22Inpaint",
        model=model[0],
        **embeds_of(prompt),
        latent=whole[0],
        mask=invert[0],
        seed=1,
    )
    paste_back(g, latent, model, picture, invert[0])
    return g


def save_and_load_embeds() -> Graph:
    g = Graph("save_and_load_embeds")
    g.note(
        "**Keep embeddings.** *Save Embeds* writes a small safetensors file under the output "
        "folder. To use it again, also with another decoder or on another machine: move it to the "
        "input folder, press R, choose it in *Load Embeds*, and switch that row on (Ctrl+B)."
    )
    prior, model = g.loaders()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a green triangle on a white background"
    )
    canvas = g.canvas()
    g.add("Kandinsky22SaveEmbeds", image_embeds=prompt[0], filename_prefix="embeds/triangle")
    latent = g.add(
        "Kandinsky22Decoder", model=model[0], **embeds_of(prompt), latent=canvas[0], seed=1
    )
    g.save(latent, model)
    loaded = g.add("Kandinsky22LoadEmbeds", off=True)
    again = g.add(
        "Kandinsky22Decoder",
        off=True,
        model=model[0],
        image_embeds=loaded[0],
        negative_image_embeds=prompt[1],
        latent=canvas[0],
        seed=1,
    )
    image = g.add("VAEDecode", off=True, samples=again[0], vae=model[1])
    g.add("PreviewImage", off=True, images=image[0])
    return g


def conditions(g: Graph, prior: Node) -> dict[str, Node]:
    """A Prior node's two outputs as CONDITIONING."""
    names = ("positive", "negative")
    return {
        name: g.add("Kandinsky22Conditioning", name.title(), image_embeds=prior[slot])
        for slot, name in enumerate(names)
    }


def ksampler_on(g: Graph, model, latent, positive, negative, **widgets) -> Node:
    settings = dict(seed=1, steps=25, cfg=4.0, sampler_name="dpmpp_2m", scheduler="karras")
    return g.add(
        "KSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=latent,
        **settings | widgets,
    )


def lora() -> Graph:
    g = Graph("lora")
    g.note(
        "**A LoRA.** The bundled one turns the ground of every picture into a violet night, and "
        "leaves shape and colour alone; *strength* says how far.\n\n"
        "For your own: a file for Kandinsky 2.2 under models/loras, by diffusers, peft or kohya, "
        "with the published *kandinsky-2-2-prior* and *kandinsky-2-2-decoder*. A LoRA of the prior "
        "goes into *Load Prior LoRA*. To compare, switch the LoRA off (Ctrl+B)."
    )
    prior, model = g.loaders()
    patched = g.add(
        "Kandinsky22LoadDecoderLora",
        model=model[0],
        lora_name="kandinsky-2-2-mini-night.safetensors",
    )
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow circle on a white background"
    )
    canvas = g.canvas()
    latent = g.add(
        "Kandinsky22Decoder", model=patched[0], **embeds_of(prompt), latent=canvas[0], seed=1
    )
    g.save(latent, model)
    return g


def ksampler() -> Graph:
    g = Graph("ksampler")
    g.note(
        "**KSampler** on Kandinsky 2.2, with every sampler and scheduler of ComfyUI. "
        "*Conditioning* makes the wires fit; whatever else takes a MODEL goes in between: "
        "TorchCompileModel, EasyCache, RescaleCFG, model merges, …\n\n"
        "KSampler does not clip its estimates as the published scheduler of the stage nodes does: "
        "where colours come out too strong, lower cfg.\n\n"
        "For real pictures choose *kandinsky-2-2-prior* and *kandinsky-2-2-decoder*, and make the "
        "canvas 768 × 768."
    )
    prior, model = g.loaders()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a green triangle on a yellow background"
    )
    canvas = g.canvas()
    given = conditions(g, prompt)
    latent = ksampler_on(g, model[0], canvas[0], given["positive"][0], given["negative"][0])
    g.save(latent, model)
    return g


def ksampler_depth() -> Graph:
    g = Graph("ksampler_depth")
    g.note(
        "**Depth to image with KSampler.** *Depth Conditioning* adds the hint to both sides.\n\n"
        "For your own: *Load Image*, *kandinsky-2-2-prior*, *kandinsky-2-2-controlnet-depth*, a "
        "depth estimator such as *Depth-Anything-V2-Small-hf*, a 768 × 768 canvas."
    )
    prior, model = g.loaders(DEPTH)
    picture = g.picture()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a green square on a white background"
    )
    hint = depth_of(g, picture)
    given = conditions(g, prompt)
    canvas = g.canvas()
    both = g.add(
        "Kandinsky22DepthConditioning",
        positive=given["positive"][0],
        negative=given["negative"][0],
        hint=hint[0],
    )
    latent = ksampler_on(g, model[0], canvas[0], both[0], both[1])
    g.save(latent, model)
    return g


def ksampler_inpaint() -> Graph:
    g = Graph("ksampler_inpaint")
    g.note(
        "**Inpaint with KSampler.** *Inpaint Conditioning* shows the UNet what stays, and gives "
        "the latent its mask: white is repainted. Use it in place of InpaintModelConditioning, "
        "which makes the hidden part grey before it is encoded, as other models want it.\n\n"
        "For your own: *Load Image* and its mask, *kandinsky-2-2-prior*, "
        "*kandinsky-2-2-decoder-inpaint*."
    )
    prior, model = g.loaders(INPAINT)
    picture = g.picture()
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a white triangle on a blue background"
    )
    whole = g.add("VAEEncode", pixels=picture[0], vae=model[1])
    mask = g.box_mask(24, 24, 80, 80)
    given = conditions(g, prompt)
    both = g.add(
        "Kandinsky22InpaintConditioning",
        positive=given["positive"][0],
        negative=given["negative"][0],
        latent=whole[0],
        mask=mask[0],
    )
    latent = ksampler_on(g, model[0], both[2], both[0], both[1])
    paste_back(g, latent, model, picture, mask[0])
    return g


def area_composition() -> Graph:
    g = Graph("area_composition")
    g.note(
        "**Two prompts in one picture.** Each has its area; where areas meet they blend. With "
        "*Conditioning (Set Mask)* the areas take any shape. A low cfg keeps the parts alike.\n\n"
        "For real pictures choose *kandinsky-2-2-prior* and *kandinsky-2-2-decoder*, and multiply "
        "all sizes by six."
    )
    prior, model = g.loaders()
    left = g.add(
        "Kandinsky22Prior", "Left", prior=prior[0], prompt="a red circle on a blue background"
    )
    right = g.add(
        "Kandinsky22Prior",
        "Right",
        prior=prior[0],
        prompt="a yellow square on a blue background",
    )
    placed = []
    for x, side in ((0, left), (SIZE, right)):
        given = g.add("Kandinsky22Conditioning", side.title, image_embeds=side[0])
        area = dict(width=SIZE, height=SIZE, x=x, y=0, strength=1.0)
        placed.append(g.add("ConditioningSetArea", conditioning=given[0], **area))
    negative = g.add("Kandinsky22Conditioning", "Negative", image_embeds=left[1])
    both = g.add(
        "ConditioningCombine",
        conditioning_1=placed[0][0],
        conditioning_2=placed[1][0],
    )
    canvas = g.canvas(width=2 * SIZE)
    latent = ksampler_on(g, model[0], canvas[0], both[0], negative[0], seed=2, cfg=2.0)
    g.save(latent, model)
    return g


def tiled_decode() -> Graph:
    g = Graph("tiled_decode")
    g.note(
        "**Large pictures on small cards.** MoVQ needs the most memory of all stages; *VAE Encode "
        "(Tiled)* and *VAE Decode (Tiled)* do it piece by piece. Without them ComfyUI turns to "
        "tiles by itself when memory runs out.\n\n"
        "For your own: *Load Image*, *kandinsky-2-2-prior*, *kandinsky-2-2-decoder*, and tiles of "
        "512 with an overlap of 64."
    )
    prior, model = g.loaders()
    picture = g.picture(back=GREEN, front=YELLOW, size=2 * SIZE, at=64, side=128)
    prompt = g.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow square on a green background"
    )
    tiles = dict(tile_size=128, overlap=32, temporal_size=64, temporal_overlap=8)
    whole = g.add("VAEEncodeTiled", pixels=picture[0], vae=model[1], **tiles)
    latent = g.add(
        "Kandinsky22Img2Img",
        model=model[0],
        **embeds_of(prompt),
        latent=whole[0],
        seed=1,
        denoise=0.3,
    )
    image = g.add("VAEDecodeTiled", samples=latent[0], vae=model[1], **tiles)
    g.add("SaveImage", images=image[0], filename_prefix=f"kandinsky22/{g.name}")
    return g


GRAPHS: list[Callable[[], Graph]] = [
    text_to_image,
    image_to_image,
    inpaint,
    outpaint,
    interpolate,
    morph,
    depth_controlnet,
    depth_controlnet_img2img,
    inpaint_hat,
    save_and_load_embeds,
    lora,
    ksampler,
    ksampler_depth,
    ksampler_inpaint,
    area_composition,
    tiled_decode,
]
