"""What a job says at its end of the twin that it made."""

from __future__ import annotations

from typing import Any

from recon.metrics_text import metrics_lines


def row(track_m: float | None, iou: float) -> dict[str, Any]:
    return {"track_m": track_m, "iou": iou, "frames_of": {"iou": 3}, "iou_by_camera": {"a": iou}}


def test_figures_stand_beside_the_baselines() -> None:
    good = {"twin": row(0.004, 0.9), "frozen": row(0.1, 0.2), "rigid": row(0.05, 0.4)}
    metrics = {"episode": "toy", "parts": {"train": {"start": 1, "stop": 4, **good}}}
    assert metrics_lines(metrics) == [
        "train, twin / frozen / rigid: track 4.0 / 100.0 / 50.0 mm, IoU 90.0 / 20.0 / 40.0 %"
    ]
    metrics["parts"]["future"] = good
    assert len(metrics_lines(metrics)) == 2
    assert metrics_lines({}) == []
    assert metrics_lines({"parts": {"future": {"start": 1, "twin": {"psnr_db": None}}}}) == []


def test_a_twin_that_a_baseline_beats_is_told_of_where_it_did_not_learn() -> None:
    lost = {"twin": row(0.06, 0.9), "prior": row(0.01, 0.9), "rigid": row(0.05, 0.4)}
    told = metrics_lines({"parts": {"train": lost, "future": lost}})
    assert len(told) == 3
    assert told[2].startswith("note: what it did not learn, 'rigid' predicts as well or better")
    assert "track 50.0 against 60.0 mm" in told[2]
    # Without tracks it is the silhouettes that tell, of which more is better.
    drawn = {"twin": row(None, 0.5), "frozen": row(None, 0.2), "falling": row(None, 0.6)}
    told = metrics_lines({"parts": {"future": drawn}})
    assert told[0] == "future, twin / frozen / falling: IoU 50.0 / 20.0 / 60.0 %"
    assert "'falling'" in told[1]


def test_tracks_have_their_baselines_in_a_table_of_their_own() -> None:
    entry = {"free_dist_mean_m": 0.01, "baselines_free_dist_mean_m": {"hold": 0.05, "knn": 0.009}}
    told = metrics_lines({"definition": "x", "held_out": {"recordings": 2, **entry}})
    assert told[0] == "held_out, twin / hold / knn: free points 10.0 / 50.0 / 9.0 mm"
    assert "'knn'" in told[1]
