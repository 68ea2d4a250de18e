"""The report in a real browser, without a network."""

import shutil
import subprocess

import pytest

from orchestrator.show.page import write_report
from tests.unit.results_fixture import tuning_results

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--virtual-time-budget=8000",
]  # fmt: skip


@pytest.fixture
def chromium():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser is installed: chromium or google-chrome")
    return found


def test_the_report_shows_its_verdict_and_charts_without_a_network(chromium, tmp_path):
    page = write_report(tuning_results(), tmp_path)
    picture = tmp_path / "page.png"
    command = [chromium, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    dom = subprocess.run([*command, offline, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert tuning_results().question in dom.stdout
    assert dom.stdout.count("<svg") >= 3
    shot = [*command, offline, "--window-size=1200,2000", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(shot, capture_output=True, timeout=120, check=True)
    # A blank page of this size compresses to a few kilobytes.
    assert picture.stat().st_size > 60_000
