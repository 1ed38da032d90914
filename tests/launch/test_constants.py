"""The constants that a trained schedule has to beat, and what its updates depend on, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch import constants, diagnose, evaluate
from tests.launch.recipes import write_tiny_recipe

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_up")]

CANDIDATES = "evaluation.constants=[fixed-full,fixed-5-then-1,fixed-1]"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_tiny_recipe(tmp_path)


def spoken(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_constants_are_searched_on_the_validation_seeds(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Odd seeds of the toy need precise actions: full denoising is best, and five updates at first are not enough."""
    assert constants.main([recipe, CANDIDATES, "evaluation.most_forwards=3"]) == 0
    text = spoken(capsys)
    assert "at most 3.00 forwards a query (evaluation.most_forwards): fixed-1 is the best constant" in text
    assert "100.0% (n=2, 34%-100%)" in text
    result = tmp_path / "runs" / "tiny" / "evaluation" / "clean.constants.json"
    content = json.loads(result.read_text())
    assert [cell["seed"] for cell in content["episodes"]["fixed-1"]["cells"]] == [50_000, 50_001]
    assert content["rows"]["fixed-5-then-1"]["all"]["forwards_mean"] == pytest.approx(7 / 3)
    assert not result.with_name("clean.json").exists()
    assert constants.main([recipe, CANDIDATES]) == 0
    text = spoken(capsys)
    assert "nothing changed" in text
    assert "evaluation.most_forwards=<n> names the best" in text
    with pytest.raises(SystemExit):
        constants.main([recipe, "evaluation.constants=[fixed-5,fixed-3-1]"])


def test_the_cost_is_that_of_the_trained_rows(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "runs" / "tiny" / "evaluation" / "clean.json"
    assert evaluate.main([recipe, "evaluation.schedules=[fixed-full,fixed-5-then-1]", "evaluation.segments=0"]) == 0
    content = json.loads(result.read_text())
    content["fingerprint"]["schedules"]["fixed-full"]["trained"] = True
    result.write_text(json.dumps(content))
    capsys.readouterr()
    assert constants.main([recipe, CANDIDATES]) == 0
    text = spoken(capsys)
    assert "at most 25.00 forwards a query (fixed-full): fixed-full is the best constant" in text
    assert "best constant whatever it costs: fixed-full (all), fixed-full (click_bell)" in text
    assert "on the held-out seeds, the best constant of each task: 100.0% (n=4, 51%-100%) +0.0% (p=1.00)" in text


@pytest.mark.parametrize("rows", ["", "[fixed-1]", "[fixed-full] schedule.max_decisions=20"])
def test_it_says_which_rows_the_held_out_seeds_lack(recipe: str, capsys: pytest.CaptureFixture[str], rows: str) -> None:
    """There is no comparison, or it lacks a row, or its names stood for other schedules."""
    if rows:
        names, *settings = rows.split()
        assert evaluate.main([recipe, f"evaluation.schedules={names}", "evaluation.segments=0", *settings]) == 0
    assert constants.main([recipe, CANDIDATES]) == 0
    text = spoken(capsys)
    assert "put fixed-full into evaluation.schedules, and run launch.evaluate" in text
    assert "on the held-out seeds, the best" not in text


def test_adaptivity_is_read_from_the_result_of_an_evaluation(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        diagnose.main([recipe, "--adaptivity"])
    assert "the file is missing. Make it with launch.evaluate." in spoken(capsys)
    rows = ["evaluation.schedules=[fixed-full,fixed-5-then-1]", "evaluation.segments=0", "evaluation.record_videos=1"]
    assert evaluate.main([recipe, *rows]) == 0
    capsys.readouterr()
    assert diagnose.main([recipe, "--adaptivity"]) == 0
    assert "fixed-5-then-1" in spoken(capsys)
    folder = tmp_path / "runs" / "tiny" / "evaluation"
    content = json.loads((folder / "clean.adaptivity.json").read_text())
    assert content["fixed-full"]["updates"]["variance"] == content["fixed-full"]["updates"]["by_state"] == 0
    two = content["fixed-5-then-1"]
    assert (two["updates"]["by_query"], two["updates"]["by_state"]) == (1, 0)
    assert (two["depth"]["mean"], two["depth"]["variance"]) == (1, 0), "both end at a clean video"
    assert [query["mean"] for query in two["by_query"]["click_bell"]] == [5, 1, 1]
    assert (folder / "clean.adaptivity.png").stat().st_size > 1000
    pictures = sorted(path.name for path in (folder / "videos").glob("*.png"))
    assert pictures == [f"{name}_click_bell_clean_100000_success.png" for name in ("fixed-5-then-1", "fixed-full")]
