"""A trial's model as ONNX: tracing takes longer than a unit test may."""

import pytest

from tests.unit.test_export_command import make_export
from trainables._deliver import deliver


@pytest.mark.slow
def test_the_onnx_model_computes_the_same_logits(tmp_path):
    for library in ("onnxruntime", "onnxscript"):
        pytest.importorskip(library, reason=f"needs {library} of the extra [onnx]")
    done = deliver(make_export(tmp_path / "export"), tmp_path / "model", onnx=True)
    assert (done.folder / "onnx" / "model.onnx").is_file()
    assert done.onnx_difference <= 1e-4
