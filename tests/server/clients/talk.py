"""The code that client scripts share: its job as one JSON argument, its report as one JSON line."""

import asyncio
import json
import sys
from importlib.metadata import version


class Job:
    """Where the server is, and which picture is in its allowed folder."""

    def __init__(self, text):
        job = json.loads(text)
        self.url = job.get("url")
        self.command, *self.args = job.get("command") or [None]
        self.picture = job["picture"]

    @property
    def good(self):
        return {"image": self.picture}

    @property
    def bad(self):
        return {"image": "no-such-picture.png"}


def main(client, *packages):
    """Run `client(job)`, which may be async, and print what it saw."""
    seen = client(Job(sys.argv[1]))
    if asyncio.iscoroutine(seen):
        seen = asyncio.run(seen)
    tools, structured, text, error = seen
    report = {
        "versions": {package: version(package) for package in packages},
        "tools": tools,
        "structured": structured,
        "text": text,
        "error": error,
    }
    sys.stdout.write(json.dumps(report) + "\n")


async def when_ready(call):
    """The result of `call()` once the server has loaded its model. Until then it says so, and an agent would call again."""
    for _ in range(20):
        try:
            result = await call()
        except Exception as error:
            if "not ready yet" not in str(error):
                raise
        else:
            if "not ready yet" not in repr(result):
                return result
        await asyncio.sleep(3)
    raise TimeoutError("the model was not ready in time")


def texts(content):
    """The text of a list of content blocks."""
    return "\n".join(block["text"] if isinstance(block, dict) else block.text for block in content)
