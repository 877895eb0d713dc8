"""The command `llm` with the vision endpoint as a model of its own. Arguments: address, picture."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

address, picture = sys.argv[1:]
with tempfile.TemporaryDirectory() as home:
    (Path(home) / "extra-openai-models.yaml").write_text(
        f"- model_id: eyes\n  model_name: blip2tools\n  api_base: {address}/v1\n  vision: true\n"
    )
    (Path(home) / "keys.json").write_text("{}")
    environment = {**os.environ, "LLM_USER_PATH": home, "OPENAI_API_KEY": "none"}
    found = []
    for more in ([], ["--no-stream"]):
        command = [sys.executable, "-m", "llm", "-m", "eyes", "-a", picture, *more, "Describe this image."]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        found.append(done.stdout.strip())
sys.stdout.write(json.dumps({"said": found[1], "streamed": found[0], "tokens": None}))
