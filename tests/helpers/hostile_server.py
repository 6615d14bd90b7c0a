"""A server that claims to be a ComfyUI, and does something wrong with each workflow."""

import asyncio

from aiohttp import web

from benchmarks.instant_server import PNG, TIMES, InstantServer

LARGE = 300_000_000  # bytes, more than Ray's store holds
GOOD = {"filename": "x_00001_.png", "subfolder": "", "type": "output"}

# Its deed → a part of the reason in the job's line, or None if the job succeeds.
DEEDS = {
    "a name with a NUL": "names a file that cannot be: 'x\\x00.png'",
    "a suffix of 5,000 letters": "names a file that cannot be: 'x.aaaa",
    "a suffix that Windows takes for a stream": "A file ends with '.a:b', which is no kind of file",
    "a name that is a number": "names a file that cannot be: 7",
    "a web page for a picture": "/view sent no .png file as x_00001_.png. It begins with b'<html>",
    "a web page for what has no kind": "/view sent a web page as x.bin",
    "nothing for a picture": "/view sent nothing as x_00001_.png",
    "a JPEG for a PNG": "/view sent no .png file",
    "no such file": "/view says 404 Not Found of x_00001_.png",
    "a drip": "was given up",
    # Nothing arrives, so the server is lost and the job gets a second try.
    "a drip of headers": None,
    "endless words": "It has not got further for",
    "the same progress for ever": "It has not got further for",
    "waiting for ever": "It has not got further for",
    "lost without a word": "The server has lost it",
    "outputs that are a list": "does not answer as ComfyUI does",
    "a history that is a text": "does not answer as ComfyUI does",
    "no prompt id": "The answer of /prompt has no prompt_id",
    "an error with controls": "Node 7 (Sa?ve) failed: Odd: ?[2Jgone",
    "the end without its event": None,
    "garbage, then the end": None,
    "a folder above": None,
    "a name above": None,
    "seconds that are a text": None,
    "a large picture": None,
}


def picture(name: str, **fields) -> dict:
    return {"5": {"images": [{**GOOD, "filename": name, **fields}]}}


OUTPUTS = {
    "a name with a NUL": picture("x\0.png"),
    "a suffix of 5,000 letters": picture("x." + "a" * 5000),
    "a suffix that Windows takes for a stream": picture("x.a:b"),
    "a name that is a number": picture(7),
    "a web page for what has no kind": picture("x.bin"),
    "outputs that are a list": [],
    "a folder above": picture("x.png", subfolder="../../../../.."),
    "a name above": picture("../../../../x.png"),
}


class HostileServer(InstantServer):
    """Does one deed for each workflow, in order, and then is correct. `done`: value → last deed.

    It has two addresses, so that four jobs wait for it at once.
    """

    def __init__(self, value_of):
        super().__init__(addresses=2)
        self.value_of = value_of  # workflow → its key in `done`
        self.left = list(DEEDS)
        self.done: dict = {}
        self.deeds: dict[str, str] = {}  # prompt id → deed
        self.talking: set[asyncio.Task] = set()

    async def take_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        deed = self.left.pop(0) if self.left else "nothing bad"
        self.done[self.value_of(body["prompt"])] = deed
        prompt_id = f"job/{len(self.deeds)}"
        self.deeds[prompt_id] = deed
        talk = asyncio.create_task(self.talk(self.sockets[body["client_id"]], prompt_id, deed))
        self.talking.add(talk)
        answer = {} if deed == "no prompt id" else {"prompt_id": prompt_id}
        return web.json_response({**answer, "node_errors": {}})

    async def talk(self, websocket, prompt_id: str, deed: str) -> None:
        async def say(kind, **fields) -> None:
            await websocket.send_json({"type": kind, "data": {"prompt_id": prompt_id, **fields}})

        await asyncio.sleep(0.05)
        if deed == "garbage, then the end":
            for text in ("", "{", "[]", '"a"', '{"type": "progress", "data": [1]}', "[" * 100_000):
                await websocket.send_str(text)
            await say("progress", node="5", value="x", max=float("nan"))
            await say("progress", node=["5"], value=10**400, max=1)
        elif deed == "an error with controls":
            what = {"node_id": "7", "node_type": "Sa\x07ve", "exception_type": "Odd"}
            await say("execution_error", **what, exception_message="\x1b[2Jgone" + "a" * 10**6)
        elif deed in ("endless words", "the same progress for ever"):
            await say("execution_start")
            while not websocket.closed:
                await say("status", queue=1)
                if deed != "endless words":
                    await say("progress", node="5", value=1, max=2)
                await asyncio.sleep(0.2)
        elif deed in ("the end without its event", "lost without a word"):
            await say("execution_start")
            return
        elif deed == "waiting for ever":
            return
        await say("executing", node=None)

    async def tell_queue(self, request: web.Request) -> web.Response:
        running, waiting = ("endless words", "the same progress for ever"), ("waiting for ever",)

        def jobs(deeds) -> list:
            return [[0, number, {}] for number, deed in self.deeds.items() if deed in deeds]

        return web.json_response({"queue_running": jobs(running), "queue_pending": jobs(waiting)})

    async def tell_history(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        deed = self.deeds[number]
        if deed in ("lost without a word", "waiting for ever"):
            return web.json_response({})
        if deed == "a history that is a text":
            return web.json_response({number: "done"})
        times = "soon" if deed == "seconds that are a text" else TIMES
        outputs = OUTPUTS.get(deed, picture(f"x_0000{list(self.deeds).index(number)}_.png"))
        if deed not in OUTPUTS and deed in DEEDS and DEEDS[deed]:
            outputs = picture("x_00001_.png")
        for output in outputs.values() if isinstance(outputs, dict) else []:
            for file in output["images"]:
                file["subfolder"] = file["subfolder"] or number
        return web.json_response({number: {"outputs": outputs, "status": {"messages": times}}})

    async def show(self, request: web.Request) -> web.StreamResponse:
        deed = self.deeds.get(request.query["subfolder"], "nothing bad")
        if deed == "no such file":
            raise web.HTTPNotFound
        if deed == "a drip of headers":
            self.deeds[request.query["subfolder"]] = "nothing bad"
            await self.drip_headers(request)
        bodies = {
            "a web page for a picture": b"<html>502",
            "a web page for what has no kind": b"\n<!DOCTYPE html>",
            "nothing for a picture": b"",
            "a JPEG for a PNG": b"\xff\xd8\xff",
        }
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(bodies.get(deed, PNG))
        while deed == "a drip":
            await answer.write(b".")
            await asyncio.sleep(0.2)
        for _ in range(LARGE // 10**6 if deed == "a large picture" else 0):
            await answer.write(bytes(10**6))
        return answer

    async def drip_headers(self, request: web.Request) -> None:
        request.transport.write(b"HTTP/1.1 200 OK\r\n")
        while not request.transport.is_closing():
            request.transport.write(b"X: y\r\n")
            await asyncio.sleep(0.2)

    async def serve(self, started) -> None:
        await super().serve(started)
        for talk in self.talking:
            talk.cancel()
