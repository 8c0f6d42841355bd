"""The page of `dvt ui` in a real browser, over two runs of a real SQLite store: look, slide, choose, copy."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from dvt.exits import ExitScores, FrontReport, exit_indices, make_report
from dvt.exits.bootstrap import bootstrap_report
from dvt.tracking import check_tracking, log_front, open_run
from dvt.tracking.example_files import write_examples
from dvt.tracking.front_files import write_front_files
from dvt.train.examples import Examples
from tests.integration.browser import Browser, running_browser
from tests.unit.exits.examples import cascade_scores, costs
from tests.unit.tracking.tiny import tiny_recipe

pytestmark = pytest.mark.slow

NUM_EXAMPLES = 24
COLUMNS = "[...document.querySelectorAll('.column')]"


def measured(num_exits: int, seed: int) -> tuple[FrontReport, ExitScores]:
    calibration, test = (cascade_scores(num_exits, 300, seed=seed + each) for each in (0, 1))
    return make_report("tiny", (2, 4, 7)[:num_exits], costs(num_exits), calibration, test, (1.5e6,)), test


def example_images(test: ExitScores) -> Examples:
    """The first test images, as grey as they are hard."""
    sure = test.confidence[:, :NUM_EXAMPLES]
    grey = np.linspace(-1, 1, NUM_EXAMPLES, dtype=np.float32)
    images = np.broadcast_to(grey[:, None, None, None], (NUM_EXAMPLES, 1, 12, 12))
    seen = np.where(test.correct[:, :NUM_EXAMPLES], "ant", "bee").T.tolist()
    labels = ("ant",) * NUM_EXAMPLES
    return Examples(images.copy(), (0.5,), (0.5,), labels, tuple(map(tuple, seen)), sure)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A store with a registered run of 3 exits and a later one of 2 that is not registered."""
    folder = tmp_path_factory.mktemp("ui")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    check_tracking(uri)
    made: dict[str, Any] = {"uri": uri}
    for name, num_exits, seed in (("first", 3, 0), ("second", 2, 7)):
        report, test = measured(num_exits, seed)
        record = open_run(tiny_recipe(), tracking_uri=uri, run_name=name)
        write_front_files(folder / name, report, bootstrap_report(report, test, num_resamples=1000))
        write_examples(folder / name, example_images(test))
        log_front(record, folder / name)
        made[name] = (report, test, record)
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("dvt-tiny")
    version = client.create_model_version("dvt-tiny", source="s3://bucket/model", run_id=made["first"][2].run_id)
    client.set_registered_model_alias("dvt-tiny", "candidate", version.version)
    return made


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    """`dvt ui` as a person starts it; told to end, it ends as by Ctrl-C."""
    command = [sys.executable, "-m", "dvt.cli.main", "ui", "--tracking-uri", uri, "--no-browser"]
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    env.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:[0-9]+/", url)
        yield url
        process.send_signal(signal.SIGTERM)  # a shell's background has SIGINT ignored, which children inherit
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def page(store: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, str]]:
    profile, folder = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("here")
    with running_browser(profile) as browser, served(store["uri"], folder) as url:
        browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
        browser.show(1280, 900)
        browser.call("Page.navigate", url=url)
        browser.wait_for(
            "document.querySelectorAll('.card').length === 2 && document.querySelectorAll('.tile').length > 0"
        )
        yield browser, url


def card(browser: Browser, name: str) -> dict[str, Any]:
    """What a run's card tells."""
    told: dict[str, Any] = browser.see(
        f"""(() => {{ const card = document.querySelector(".card[aria-label='{name}']");
        const all = (what) => [...card.querySelectorAll(what)].map(node => node.textContent);
        return {{figures: all(".figures b"), shares: all(".leave td:nth-child(3)"),
                 thresholds: all(".leave td:nth-child(4)"), command: all("code")[0],
                 isBest: card.classList.contains("is-best"), isOff: card.querySelector("button").disabled}}; }})()"""
    )
    return told


def slide(browser: Browser, step: int) -> float:
    """Put the slider somewhere; the budget in multiply-adds."""
    told: float = browser.see(
        f"(() => {{ const s = document.getElementById('budget'); s.value = {step};"
        "s.dispatchEvent(new Event('input', {bubbles: true})); return budget; })()"
    )
    return told


def told_by(report: FrontReport, budget: float) -> dict[str, Any]:
    """What the card must tell, from the report alone."""
    within = [index for index, point in enumerate(report.calibration_front.points) if point.macs <= budget]
    point = report.test_points[within[-1]]
    told = {float("inf"): "closed", float("-inf"): "all"}
    return {
        "top1": f"{100 * point.accuracy:.2f} %",
        "shares": [f"{100 * share:.1f} %" for share in point.exit_shares],
        "thresholds": [told.get(each, f"{each:.3f}") for each in point.thresholds],
        "values": point.thresholds,
    }


@pytest.mark.parametrize("step", [150, 500, 900])
def test_the_slider_moves_all_that_is_told(page: tuple[Browser, str], store: dict[str, Any], step: int) -> None:
    browser, _ = page
    budget = slide(browser, step)
    accuracies = {}
    for name in ("first", "second"):
        report, _, _ = store[name]
        shown, wanted = card(browser, name), told_by(report, budget)
        assert shown["figures"][0] == wanted["top1"]
        assert (shown["shares"], shown["thresholds"]) == (wanted["shares"], wanted["thresholds"])
        accuracies[name] = float(wanted["top1"][:-2])
    best = max(accuracies, key=lambda name: accuracies[name])
    assert [name for name in accuracies if card(browser, name)["isBest"]] == [best]


@pytest.mark.parametrize("step", [150, 900])
def test_example_images_stand_where_they_leave(page: tuple[Browser, str], store: dict[str, Any], step: int) -> None:
    browser, _ = page
    browser.see(
        "(() => { const of = document.getElementById('of'); of.value = [...of.options]"
        ".find(each => each.text === 'first').value; of.dispatchEvent(new Event('change')); })()"
    )
    report, test, _ = store["first"]
    thresholds = told_by(report, slide(browser, step))["values"]
    exits = exit_indices(test.confidence[:, :NUM_EXAMPLES], thresholds)
    wrong = ~test.correct[exits, np.arange(NUM_EXAMPLES)]
    counts = browser.see(
        f"{COLUMNS}.map(c => [c.querySelectorAll('.tile').length, c.querySelectorAll('.wrong').length])"
    )
    assert counts == [[int((exits == index).sum()), int(wrong[exits == index].sum())] for index in range(3)]


def test_the_slider_answers_to_keys_and_nothing_jumps(page: tuple[Browser, str]) -> None:
    browser, _ = page
    before = slide(browser, 500)
    height = browser.see("document.documentElement.scrollHeight")
    browser.see("document.getElementById('budget').focus()")
    for _ in range(30):
        browser.press("ArrowRight", 39)
    assert browser.see("budget") > before
    assert browser.see("document.getElementById('budget').getAttribute('aria-valuetext')").endswith("adds an image")
    heights = {height}
    for step in range(0, 1001, 100):
        slide(browser, step)
        heights.add(browser.see("document.documentElement.scrollHeight"))
    assert len(heights) == 1


def test_the_command_can_be_copied(page: tuple[Browser, str], store: dict[str, Any]) -> None:
    browser, _ = page
    slide(browser, 500)
    told = browser.see("toldMacs(budget, '')")
    wanted = f"dvt promote dvt-tiny --budget-macs {told} --to champion --tracking-uri {store['uri']}"
    assert card(browser, "first")["command"] == wanted
    assert card(browser, "second")["isOff"]
    browser.call("Page.bringToFront")
    browser.see("document.querySelector(\".card[aria-label='first'] button\").click()")
    browser.wait_for("document.getElementById('status').textContent.startsWith('copied')")
    assert browser.see("navigator.clipboard.readText()") == wanted


def test_runs_can_be_searched_and_left_out(page: tuple[Browser, str]) -> None:
    browser, _ = page
    listed = "[...document.querySelectorAll('#runs li:not([hidden]) b')].map(each => each.textContent)"
    assert browser.see(listed) == ["second", "first"]
    browser.see(
        "(() => { const s = document.getElementById('search'); s.value = 'SEC dvt'; "
        "s.dispatchEvent(new Event('input')); })()"
    )
    assert browser.see(listed) == ["second"]
    browser.see("document.querySelector('#runs li:not([hidden]) input').click()")
    browser.wait_for("document.querySelectorAll('.card').length === 1")
    browser.see("document.querySelector('#runs li:not([hidden]) input').click()")
    browser.wait_for("document.querySelectorAll('.card').length === 2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_can_be_read(page: tuple[Browser, str], scheme: str) -> None:
    browser, _ = page
    browser.show(360, 700, scheme)
    browser.wait_for("innerWidth === 360 && document.documentElement.scrollWidth <= 360")
    browser.wait_for(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
    assert browser.see(CONTRASTS) == []
    browser.show(1280, 900)


# Texts whose colour is less than 4.5 times as light or dark as what they stand on, by WCAG 2.
CONTRASTS = """(() => {
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const read = text => text.match(/[0-9.]+/g).map(Number);
  const behind = node => { for (; node; node = node.parentElement) {
    const c = read(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    if (![...node.childNodes].some(each => each.nodeType === 3 && each.textContent.trim())) continue;
    if (!node.getClientRects().length || node.closest(".hidden, [hidden]") || node.tagName === "OPTION") continue;
    const style = getComputedStyle(node);
    const ink = read(node.namespaceURI.endsWith("svg") ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${node.tagName} ${node.className} ${node.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low; })()"""


def test_last_the_console_is_clean_and_no_other_host_was_asked(page: tuple[Browser, str]) -> None:
    browser, url = page
    assert browser.complaints == []
    assert [each for each in browser.addresses if not each.startswith((url, "data:"))] == []
    assert any("/api/runs/" in each for each in browser.addresses)
