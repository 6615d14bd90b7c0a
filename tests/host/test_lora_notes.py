"""Notes about a LoRA file are on the node as long as they are true."""

import asyncio
import json
import struct

import aiohttp
import pytest
import torch
from helpers.server_prompts import node
from helpers.tiny_models import PRIOR
from safetensors.torch import save_file

LORA = "Kandinsky22LoadPriorLora"
MODULE = "base_model.model.transformer_blocks.0.attn1.to_q"
GRAPH = {
    "prior": node("Kandinsky22LoadPrior", model_name=PRIOR, weight_dtype="fp32"),
    "lora": node(LORA, prior=["prior", 0], lora_name="noted.safetensors", strength=1.0),
    "look": node("PreviewAny", source=["lora", 0]),
}


def texts_of(server, prompt: dict) -> list[tuple[str, str]]:
    """Return (node, text) for every text that ComfyUI shows on a node while a prompt runs."""

    async def listen():
        texts, url = [], server.url.replace("http", "ws", 1)
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/ws?clientId=notes") as events:
                await asyncio.to_thread(server.queue, prompt, "notes")
                async for event in events:
                    if event.type == aiohttp.WSMsgType.BINARY:
                        kind, length = struct.unpack(">II", event.data[:8])
                        if kind == 3:
                            name, text = event.data[8 : 8 + length], event.data[8 + length :]
                            texts.append((name.decode(), text.decode()))
                    elif json.loads(event.data)["type"].startswith("execution_"):
                        kind = json.loads(event.data)["type"]
                        assert kind != "execution_error", event.data
                        if kind == "execution_success":
                            return texts

    return asyncio.run(asyncio.wait_for(listen(), 120))


@pytest.fixture
def lora(server):
    folder = server.base / "models" / "loras"
    file, settings = folder / "noted.safetensors", folder / "noted.json"
    pair = {"lora_A.weight": torch.ones(4, 24), "lora_B.weight": torch.ones(24, 4)}
    save_file({f"{MODULE}.{end}": part for end, part in pair.items()}, file)
    yield settings
    file.unlink()
    settings.unlink(missing_ok=True)


def test_a_note_comes_and_goes(server, lora):
    ((where, text),) = texts_of(server, GRAPH)
    assert where == "lora" and "noted.safetensors" in text and "alpha = rank is assumed" in text
    assert texts_of(server, GRAPH) == []  # nothing has to run again
    lora.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    assert texts_of(server, GRAPH) == [("lora", "")]  # the settings are read, and the note goes
    assert texts_of(server, GRAPH) == []
