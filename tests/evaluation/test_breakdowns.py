from __future__ import annotations

from typing import Any

import pandas as pd

from workbench.evaluation.breakdowns import BREAKDOWNS, breakdown


def row(**fields: Any) -> dict[str, Any]:
    plain = {"sentence": "dog", "kind": "attribute", "distractors": 0, "height": 10, "width": 10, "target_area": 5,
             "intersection": 1, "union": 2, "predicted_area": 1, "no_target": False}  # fmt: skip
    return plain | fields


def test_breakdowns_bin_by_their_stated_edges() -> None:
    assert set(BREAKDOWNS) == {"length", "kind", "size", "distractors"}
    words = [1, 2, 3, 5, 6, 10, 11, 30]
    frame = pd.DataFrame([row(sentence=" ".join("a" * n)) for n in words])
    assert breakdown(frame, "length")["bin"].tolist() == ["1–2 words", "3–5 words", "6–10 words", "over 10 words"]
    assert breakdown(frame, "length")["expressions"].tolist() == [2, 2, 2, 2]
    sizes = breakdown(pd.DataFrame([row(target_area=a) for a in (1, 2, 9, 10, 24, 25, 100, 0)]), "size")
    assert dict(zip(sizes["bin"], sizes["expressions"], strict=True)) == {
        "under 2 % of the image": 1, "2–10 %": 2, "10–25 %": 2, "over 25 %": 2
    }  # fmt: skip
    others = breakdown(pd.DataFrame([row(distractors=d) for d in (-1, 0, 1, 2, 3, 4, 9)]), "distractors")
    assert dict(zip(others["bin"], others["expressions"], strict=True)) == {"none": 1, "1": 1, "2–3": 2, "over 3": 2}
    kinds = pd.DataFrame([row(kind=k, intersection=i) for k, i in (("place", 0), ("attribute", 1), ("place", 2))])
    found = breakdown(kinds, "kind").set_index("bin")
    assert found["miou"].to_dict() == {"attribute": 0.5, "place": 0.5}
    assert found.loc["place", "expressions"] == 2


def test_a_breakdown_of_grefcoco_has_its_metrics_in_every_bin() -> None:
    frame = pd.DataFrame(
        [row(kind="place", no_target=True, intersection=0, union=0, predicted_area=0, target_area=0, distractors=-1),
         row(kind="attribute")]
    )  # fmt: skip
    kinds = breakdown(frame, "kind").set_index("bin")
    assert kinds["giou"].to_dict() == {"attribute": 0.5, "place": 1.0}
    assert breakdown(frame, "size")["bin"].tolist() == ["2–10 %", "no target"]
    assert breakdown(frame, "distractors")["bin"].tolist() == ["none", "no target"]
    assert breakdown(frame, "size").set_index("bin")["n_acc"].dropna().to_dict() == {"no target": 1.0}
