#!/usr/bin/env bash
# Versions: ray[serve] 2.60.0 (PyPI, Python 3.11).
#
# Behaviour: `max_queued_requests` of a Ray Serve deployment bounds the requests that a handle has not yet given to a replica, and a
# request counts as such until the router has run. So a caller that sends more than that many at one moment is refused
# (`BackPressureError`) while the replicas are idle and have room (`max_ongoing_requests`) for all of them. The same requests sent a
# few milliseconds apart are all taken. Whoever wants bursts to be taken must give `max_queued_requests` the size of the burst, however
# much the replicas take.
#
# Seen on 2026-11-27 (2 busy cores; one replica with room for 100, max_queued_requests=10, 50 requests):
#   at one moment: 11 answered, 39 BackPressureError
#   20 ms apart: 50 answered
set -euo pipefail
folder=$(mktemp -d /tmp/finding-XXXX)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet 'ray[serve]==2.60.0' > pip.log 2>&1
cat > burst.py <<'PY'
import asyncio
import collections
import sys
import time

import ray
from ray import serve

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1], object_store_memory=100 * 2**20)
serve.start(proxy_location="Disabled")


@serve.deployment(max_ongoing_requests=100, max_queued_requests=10)
class Answer:
    async def __call__(self) -> str:
        await asyncio.sleep(3)
        return "answered"


handle = serve.run(Answer.bind(), route_prefix=None)
handle.remote().result()


def count(responses):
    ends = collections.Counter()
    for response in responses:
        try:
            ends[response.result()] += 1
        except Exception as error:
            ends[type(error).__name__] += 1
    return ", ".join(f"{number} {end}" for end, number in sorted(ends.items(), reverse=True))


def slowly():
    for _ in range(50):
        time.sleep(0.02)
        yield handle.remote()


print("at one moment:", count([handle.remote() for _ in range(50)]))
print("20 ms apart:", count(list(slowly())))
serve.shutdown()
ray.shutdown()
PY
# A home of its own for what Ray writes there, and loopback addresses only.
HOME="$folder" RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_USAGE_STATS_ENABLED=0 \
  venv/bin/python burst.py "$folder/ray" 2> errors.log | tee seen.txt | grep -E "^(at one moment|20 ms apart)"
grep -Eq "^at one moment: .*[0-9]+ BackPressureError" seen.txt
grep -q "^20 ms apart: 50 answered$" seen.txt
