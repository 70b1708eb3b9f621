"""Explanations as data frames, for tables and plots."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from workbench.analysis.attribution import METHODS, Explanation
from workbench.analysis.faithfulness import MEASURES


def word_frame(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """One row per sentence, method over words, and word: its place from 0, its value (NaN where it is not read)."""
    return pd.DataFrame(
        [
            {"sentence": one.sentence, "method": attribution.method, "place": place, "word": word.text, "value": value}
            for one in explanations
            for attribution in one.attributions
            if METHODS[attribution.method].over == "words"
            for place, (word, value) in enumerate(zip(one.words, attribution.values.tolist(), strict=True))
        ],
        columns=["sentence", "method", "place", "word", "value"],
    )


def faithfulness_frame(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """One row per sentence, method and measure: its value, that of random attributions, and whether they separate."""
    return pd.DataFrame(
        [
            {
                "sentence": one.sentence,
                "method": attribution.method,
                "measure": name,
                "better": MEASURES[name].better,
                "value": compared.value,
                "random_mean": compared.mean,
                "random_low": compared.low,
                "random_high": compared.high,
                "p": compared.p,
                "separates": compared.separates,
                "verdict": compared.verdict,
            }
            for one in explanations
            for attribution in one.attributions
            for name, compared in attribution.faithfulness.items()
        ]
    )


def completeness_frame(explanations: Sequence[Explanation]) -> pd.DataFrame:
    """One row per sentence and method: f(x), f(baseline), the sum of the values, the gap; whether 0 is promised."""
    return pd.DataFrame(
        [
            {
                "sentence": one.sentence,
                "method": attribution.method,
                "of_input": attribution.of_input,
                "of_baseline": attribution.of_baseline,
                "sum": attribution.gap + attribution.of_input - attribution.of_baseline,
                "gap": attribution.gap,
                "promised": METHODS[attribution.method].complete,
            }
            for one in explanations
            for attribution in one.attributions
        ]
    )
