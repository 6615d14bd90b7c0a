"""Make nodes of prompts in API form, and empty the cache of a server."""


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def forget_outputs(server) -> None:
    """Empty the server's cache. This happens after the next prompt, so queue one."""
    server.post("/free", {"unload_models": True, "free_memory": True})
    empty = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
    server.run({"1": empty, "2": node("PreviewImage", images=["1", 0])})
