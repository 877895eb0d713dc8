#!/usr/bin/env bash
# Versions: torch 2.13.0 (PyPI, the build for processors), Python 3.11, x86-64 with AVX512_VNNI.
#
# Behaviour: `torch.ops.onednn.qlinear_pointwise` takes 8-bit states, signed or unsigned, and a weight from `qlinear_prepack`. The
# packed form is made for unsigned ones. With signed ones the numbers are right, too, but oneDNN has no kernel for that pair of
# forms and falls back to its reference, `ref_int8`: hundreds of times slower, without a word. The same states plus 128, unsigned,
# with a zero point of 128, take the quick one.
#
# Seen on 2026-11-28 (AMD EPYC with AVX512_VNNI; the times differ between machines):
#   signed: exact, ref_int8, 381.5 ms
#   unsigned: exact, brg_matmul, 0.5 ms
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet torch==2.13.0 numpy > pip.log 2>&1
cat > product.py <<'PY'
import sys, time, torch

torch.set_num_threads(1)
torch.manual_seed(0)
weight = torch.randint(-127, 128, (5120, 2048), dtype=torch.int8)
states = torch.randint(-127, 128, (1, 2048), dtype=torch.int8)
zero = 0 if sys.argv[1] == "signed" else 128
given = states if zero == 0 else (states.int() + zero).to(torch.uint8)
packed = torch.ops.onednn.qlinear_prepack(weight, None)
ones, zeros = torch.ones(5120), torch.zeros(5120, dtype=torch.int32)
for _ in range(2):
    began = time.perf_counter()
    made = torch.ops.onednn.qlinear_pointwise(
        given, 1.0, zero, packed, ones, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    took = time.perf_counter() - began
exact = torch.equal(made, states.float() @ weight.float().t())
print("exact" if exact else "wrong", f"{1000 * took:.1f}", file=sys.stderr)
PY
for kind in signed unsigned; do
    ONEDNN_VERBOSE=1 venv/bin/python -W ignore product.py "$kind" > verbose 2> told
    kernel=$(grep 'exec,cpu,matmul' verbose | tail -n 1 | cut -d, -f 7 | cut -d: -f 1)
    read -r right took < <(tail -n 1 told)
    echo "$kind: $right, $kernel, $took ms"
    [[ $right == exact ]]
    if [[ $kind == signed ]]; then [[ $kernel == ref_int8 ]]; else [[ $kernel == brg* ]]; fi
done
