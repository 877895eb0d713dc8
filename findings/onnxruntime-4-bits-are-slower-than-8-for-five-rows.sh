#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0, onnx 1.20.0, torch 2.13.0 (PyPI, the build for processors), numpy 2.4.6, Python 3.11, x86-64 with
# AVX512_VNNI.
#
# Behaviour: a few rows times a large matrix wait for memory, so half the bytes should take about half the time. They do for one
# row: onnxruntime's `MatMulNBits` with 4 bits (accuracy level 4, blocks of 128) is quicker there than torch's packed 8-bit product.
# But its time grows with every further row, while the 8-bit product takes the same for five rows as for one. A beam search with
# five beams is therefore slower with 4 bits than with 8, on the same thread and matrix.
#
# Seen on 2026-11-28 (AMD EPYC with AVX512_VNNI; the times differ between machines), 2048 x 5120, one thread:
#   4 bits: 0.28 ms for one row, 0.65 ms for five
#   8 bits: 0.45 ms for one row, 0.42 ms for five
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet onnxruntime==1.32.0 onnx==1.20.0 torch==2.13.0 numpy==2.4.6 > pip.log 2>&1
cat > rows.py <<'PY'
import time, warnings
import numpy as np, onnxruntime, torch
from onnx import TensorProto, helper, numpy_helper

warnings.simplefilter("ignore")
torch.set_num_threads(1)
INPUTS, OUTPUTS, BLOCK, COUNT = 2048, 5120, 128, 6  # six matrices take turns, so that none stays in the cache
random = np.random.default_rng(0)

def four():
    weight = random.integers(0, 256, (OUTPUTS, INPUTS // BLOCK, BLOCK // 2), dtype=np.uint8)
    scale = random.random((OUTPUTS, INPUTS // BLOCK), dtype=np.float32)
    node = helper.make_node(
        "MatMulNBits", ["states", "weight", "scale"], ["made"], domain="com.microsoft",
        K=INPUTS, N=OUTPUTS, bits=4, block_size=BLOCK, accuracy_level=4,
    )
    graph = helper.make_graph(
        [node], "product",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["rows", INPUTS])],
        [helper.make_tensor_value_info("made", TensorProto.FLOAT, ["rows", OUTPUTS])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(scale, "scale")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda states: session.run(None, {"states": states})[0]

def eight():
    weight = torch.from_numpy(random.integers(-127, 128, (OUTPUTS, INPUTS), dtype=np.int8))
    scales, zeros = torch.rand(OUTPUTS, dtype=torch.float64), torch.zeros(OUTPUTS, dtype=torch.long)
    torch.backends.quantized.engine = "fbgemm"
    packed = torch.ops.quantized.linear_prepack(torch._make_per_channel_quantized_tensor(weight, scales, zeros, 0), None)
    return lambda states: torch.ops.quantized.linear_dynamic(torch.from_numpy(states), packed).numpy()

kinds = {"4 bits": [four() for _ in range(COUNT)], "8 bits": [eight() for _ in range(COUNT)]}
taken = {}
for turn in range(15):
    for name, products in kinds.items():
        for rows in (1, 5):
            states = random.standard_normal((rows, INPUTS), dtype=np.float32)
            began = time.thread_time()
            for product in products:
                product(states)
            taken.setdefault((name, rows), []).append((time.thread_time() - began) / COUNT)
best = {key: 1000 * sorted(values)[len(values) // 4] for key, values in taken.items()}
for name in kinds:
    print(f"{name}: {best[name, 1]:.2f} ms for one row, {best[name, 5]:.2f} ms for five")
assert best["4 bits", 1] < best["8 bits", 1], "one row"
assert best["4 bits", 5] > 1.2 * best["8 bits", 5], "five rows"
PY
venv/bin/python rows.py
