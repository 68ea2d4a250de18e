import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "transformers", "datasets", "ray", "mlflow", "lm_eval", "deepspeed", "peft", "matplotlib", "scipy")
SWEEPS = sorted(path.name for path in (ROOT / "sweeps").glob("*.yaml"))


def loaded_after(*arguments):
    """Which heavy libraries a command has loaded when it ends, and what it printed."""
    code = (
        "import sys\n"
        "from orchestrator.sweep import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code\n"
        f"print('LOADED', code, *[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    last = done.stderr.strip().splitlines()[-1].split()
    assert last[0] == "LOADED", done.stderr
    return int(last[1]), last[2:], done.stdout


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("profile", ["demo", "full"])
def test_a_plan_loads_no_heavy_library(name, profile, tmp_path):
    code, heavy, printed = loaded_after(f"sweeps/{name}", "--profile", profile, "--plan", "--output", str(tmp_path))
    assert (code, heavy) == (0, [])
    assert printed.strip()


def test_help_loads_no_heavy_library():
    code, heavy, printed = loaded_after("--help")
    assert (code, heavy) == (0, [])
    assert "--retry-failed" in printed


def test_a_plan_writes_nothing_but_its_cache(tmp_path):
    loaded_after("sweeps/sft_tune.yaml", "--plan", "--output", str(tmp_path / "out"))
    assert {path.name for path in tmp_path.glob("out/*")} <= {"cache"}
