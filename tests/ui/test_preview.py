"""The preview as markup: roles, counts, and nothing of the data as markup."""

from __future__ import annotations

from softprompt_core.tokenising import Preview, PreviewToken
from softprompt_core.ui.preview import ROLES, preview_html


def shown(**changes: object) -> str:
    tokens = [PreviewToken(f"P{i}", "virtual") for i in range(5)]
    tokens += [PreviewToken("Text", "template"), PreviewToken("<img>", "text"), PreviewToken("␣no", "label")]
    values: dict[str, object] = {
        "rows": [tokens], "split_sizes": {"train": 1_200, "test": 30}, "label_counts": {"<yes>": 700, "no": 530},
        "columns": ("a", "b"), "text_column": "a", "label_column": "b", "dropped_rows": 0, "cut_rows": 0,
        "median_tokens": 40, "longest_tokens": 90,
    }
    return preview_html(Preview(**(values | changes)))  # type: ignore[arg-type]


def test_every_role_is_in_the_legend_and_on_its_tokens() -> None:
    markup = shown()
    for role, words in ROLES.items():
        assert words in markup
        assert markup.count(f"sp-{role}") == 2
    assert "5 × virtual token" in markup


def test_data_is_escaped_and_counted() -> None:
    markup = shown()
    assert "<img>" not in markup
    assert "&lt;img&gt;" in markup
    assert "<b>&lt;yes&gt;</b> 700" in markup
    assert "1,200 train · 30 test" in markup
    assert "40 median, 90 longest" in markup


def test_lost_rows_are_warned_of() -> None:
    assert "⚠" not in shown()
    assert "⚠ 3 dropped" in shown(dropped_rows=3)
    assert "⚠ 1,001 cut" in shown(cut_rows=1_001)
