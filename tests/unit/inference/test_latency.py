import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from dvt.config import ConfigError
from dvt.inference import LatencyProfile, device_name, keep_profile, measure_latency, read_profiles
from tests.unit.models.tiny import build, stages, tiny

PROFILE = LatencyProfile(
    device="a processor, 2 threads",
    torch_version="2.15.0",
    batch_sizes=(1, 8),
    stage_seconds=((0.004, 0.008, 0.016), (0.002, 0.005, 0.018)),
)


def test_seconds_of_an_exit_are_those_of_all_stages_up_to_it() -> None:
    assert PROFILE.seconds_per_exit(1) == pytest.approx((0.004, 0.012, 0.028))
    assert PROFILE.seconds_per_exit(8) == pytest.approx((0.002, 0.007, 0.025))
    assert PROFILE.seconds_per_exit() == PROFILE.seconds_per_exit(8)  # the fastest for the whole cascade
    with pytest.raises(ValueError, match="batch_size must be one of 1, 8, got 4"):
        PROFILE.seconds_per_exit(4)


def test_a_profile_comes_back_from_json() -> None:
    assert LatencyProfile.from_dict(json.loads(json.dumps(asdict(PROFILE)))) == PROFILE


@pytest.mark.parametrize("rows", [(), ((0.1, 0.2),), ((0.1,), (0.1, 0.2)), ((0.1,), (0.0,)), ((0.1,), (-1.0,))])
def test_a_profile_that_is_not_whole_is_refused(rows: tuple[tuple[float, ...], ...]) -> None:
    with pytest.raises(ValueError, match="stage_seconds must hold one positive number for each stage in each of 2"):
        replace(PROFILE, stage_seconds=rows)


def test_measuring_gives_each_stage_at_each_batch_size() -> None:
    cascade = build(tiny()).train()
    profile = measure_latency(cascade, batch_sizes=(4, 1, 4), repeats=2)
    assert profile.batch_sizes == (1, 4)
    assert [len(row) for row in profile.stage_seconds] == [3, 3]
    assert profile.device == device_name(torch.device("cpu"))
    assert f"{torch.get_num_threads()} threads" in profile.device


def test_larger_stages_take_longer() -> None:
    cascade = build(tiny(stages=stages(1, 16), depth=4))  # 256 times the tokens: no noise turns that around
    first, both = measure_latency(cascade, batch_sizes=(16,), repeats=3).seconds_per_exit(16)
    assert both - first > first


@pytest.mark.parametrize(("sizes", "repeats"), [((), 1), ((0,), 1), ((1,), 0)])
def test_bad_sizes_are_told(sizes: tuple[int, ...], repeats: int) -> None:
    with pytest.raises(ValueError, match="batch_sizes and repeats must be at least 1"):
        measure_latency(build(tiny()), sizes, repeats)


def test_a_folder_keeps_one_profile_a_device(tmp_path: Path) -> None:
    assert read_profiles(tmp_path) == ()
    other = replace(PROFILE, device="a GPU")
    for profile in (PROFILE, other, replace(PROFILE, torch_version="2.16.0")):
        keep_profile(tmp_path, profile)
    assert read_profiles(tmp_path) == (replace(PROFILE, torch_version="2.16.0"), other)
    assert [path.name for path in tmp_path.iterdir()] == ["latency.json"]


@pytest.mark.parametrize("text", ["", "{}", '{"profiles": [{"device": "x"}]}', "[]"])
def test_a_file_of_something_else_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "latency.json").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_profiles(tmp_path)
    assert str(caught.value.problems[0]).startswith(
        f"{tmp_path / 'latency.json'} must hold latency profiles, got others"
    )
