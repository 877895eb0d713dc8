#!/usr/bin/env bash
# Versions: torch 2.13.0 (PyPI, the build for processors), Python 3.11, x86-64.
#
# Behaviour: `torch._int_mm` multiplies int8 matrices into int32 by oneDNN. On x86 processors without VNNI instructions oneDNN adds
# 128 to the first matrix and multiplies pairs of neighbours by an instruction whose sums end at 16 bits: what does not fit is cut
# off, and the int32 result is wrong without a word. All of -128 to 0 in the first matrix fits, as then no shifted value is above
# 128. `ONEDNN_MAX_CPU_ISA`, oneDNN's own switch, shows on any x86 processor with AVX-512 what one without VNNI computes.
#
# Seen on 2026-11-27 (AMD EPYC with AVX512_VNNI):
#   the processor as it is: 0 of 2560 wrong; none positive: 0 of 2560 wrong
#   AVX512_CORE: 2560 of 2560 wrong; none positive: 0 of 2560 wrong
#   AVX2: 2560 of 2560 wrong; none positive: 0 of 2560 wrong
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy > pip.log 2>&1
cat > product.py <<'PY'
import torch

def wrong(states, weights):
    exact = (states.double() @ weights.double().t()).int()
    return int((torch._int_mm(states, weights.t()) != exact).sum())

signs = torch.arange(5 * 2560).view(5, 2560).mul(7).remainder(3).sub(1)
weights = torch.where(torch.arange(512 * 2560).view(512, 2560).mul(11).remainder(5) > 1, 127, -127).to(torch.int8)
states = (127 * signs).to(torch.int8)
below = (states.int() // 2 - 64).to(torch.int8)
print(f"{wrong(states, weights)} of {5 * 512} wrong; none positive: {wrong(below, weights)} of {5 * 512} wrong")
PY
echo "the processor as it is: $(venv/bin/python -W ignore product.py)"
for kind in AVX512_CORE AVX2; do
    said=$(ONEDNN_MAX_CPU_ISA=$kind venv/bin/python -W ignore product.py)
    echo "$kind: $said"
    [[ $said != "0 of"* && $said == *"none positive: 0 of"* ]]
done
