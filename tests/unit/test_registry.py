import subprocess
import sys

import pytest

from orchestrator.registry import installed
from tests.conftest import ROOT
from tests.unit.sweep_stand_ins import REGISTRY


def test_public_modules_of_the_folders_are_methods_and_evals():
    for names, folder in ((installed().methods, "trainables"), (installed().evals, "evals")):
        files = {path.stem for path in (ROOT / folder).glob("*.py") if not path.stem.startswith("_")}
        assert set(names) - {"none"} == files
    assert "sft" in installed().methods
    assert "none" in installed().methods


def test_a_module_is_imported_when_it_is_asked_for():
    code = (
        "import sys; from orchestrator.registry import installed; installed();"
        "before = 'trainables.sft' in sys.modules; installed().method('sft');"
        "print(before, 'trainables.sft' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError):
        REGISTRY.method("nothing")


def test_a_method_reads_its_own_block_where_it_has_settings_and_those_it_shares():
    assert set(REGISTRY.blocks("sft")) == {"shared"}
    assert set(REGISTRY.blocks("lora")) == {"lora"}
    assert set(REGISTRY.blocks("small")) == {"small", "lora"}
    assert REGISTRY.blocks("none") == {}
    assert set(REGISTRY.all_blocks()) == {"shared", "lora", "small"}
