"""The preview as markup: roles, counts, and nothing of the data as markup."""

from __future__ import annotations

from dataclasses import replace

from softprompt_core.config import TrainConfig
from softprompt_core.preflight import preflight
from softprompt_core.tokenising import Preview, PreviewToken
from softprompt_core.ui.preview import ROLES, preflight_html, preview_html


def shown(*, has_virtual: bool = True, **changes: object) -> str:
    tokens = [PreviewToken(f"P{i}", "virtual") for i in range(5)]
    tokens += [PreviewToken("Text", "template"), PreviewToken("<img>", "text"), PreviewToken("␣no", "label")]
    values: dict[str, object] = {
        "rows": [tokens], "split_sizes": {"train": 1_200, "test": 30}, "label_counts": {"<yes>": 700, "no": 530},
        "columns": ("a", "b"), "text_column": "a", "label_column": "b", "dropped_rows": 0, "cut_rows": 0,
        "median_tokens": 40, "longest_tokens": 90,
    }
    return preview_html(Preview(**(values | changes)), has_virtual=has_virtual)  # type: ignore[arg-type]


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


def test_a_method_without_virtual_tokens_shows_none() -> None:
    markup = shown(has_virtual=False)
    assert "virtual token" not in markup
    assert "&lt;img&gt;" in markup


def test_check_is_a_table_with_its_warnings_first_and_nothing_of_it_is_markup() -> None:
    found = preflight(TrainConfig(model="bundled", data="complaints", lr=3.0, init="random", steps=2))
    markup = preflight_html(found)
    assert markup.count("<tr>") == len(found.rows)
    assert markup.index("learning rate") < markup.index("<table>")
    hostile = preflight_html(replace(found, rows=[("<b>", "<i>")], warnings=["<script>"], is_measured=False))
    assert "&lt;script&gt;" in hostile
    assert "<th>&lt;b&gt;</th><td>&lt;i&gt;</td>" in hostile
    assert "are estimates" in hostile
    assert "Nothing looks like a slip" in preflight_html(replace(found, warnings=[]))
