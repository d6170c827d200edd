import onnxruntime
import torch
from test_vit_adapter import build
from torch import nn
from torch.testing import assert_close

from vitadapter_d2.layers.ms_deform_attn import MSDeformAttn
from vitadapter_d2.ops.export import export_decompositions


def test_the_backbone_runs_in_onnxruntime(tmp_path):
    torch.manual_seed(0)
    model = build().eval()
    for module in model.modules():
        if isinstance(module, MSDeformAttn):  # at its initial state it ignores the query
            nn.init.normal_(module.sampling_offsets.weight, std=0.3)
            nn.init.normal_(module.attention_weights.weight, std=0.3)
        if hasattr(module, "gamma"):  # and the injectors add nothing
            nn.init.ones_(module.gamma)
    image = torch.randn(1, 3, 64, 96)
    program = torch.export.export(model, (image,)).run_decompositions(export_decompositions())
    path = tmp_path / "backbone.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    for output, expected in zip(outputs, model(image).values(), strict=True):
        assert_close(torch.from_numpy(output), expected, rtol=1e-4, atol=1e-4)
