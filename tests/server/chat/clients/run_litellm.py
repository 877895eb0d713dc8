"""litellm as a gateway does it: the vision endpoint as a provider, in one piece and streamed. Arguments: address, picture."""

import base64
import json
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm

address, picture = sys.argv[1:]
data = base64.b64encode(Path(picture).read_bytes()).decode()
content = [
    {"type": "text", "text": "Describe this image."},
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
]
call = {
    "model": "hosted_vllm/blip2tools",
    "api_base": f"{address}/v1",
    "api_key": "none",
    "messages": [{"role": "user", "content": content}],
}
whole = litellm.completion(**call)
stream = litellm.completion(**call, stream=True)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
said = whole.choices[0].message.content
sys.stdout.write(json.dumps({"said": said, "streamed": "".join(pieces), "tokens": whole.usage.total_tokens}))
