"""The page: its four tabs, and what they share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from softprompt_core.ui import api, compare_tab, inspect_tab, runs_tab, train_tab
from softprompt_core.ui.context import Context
from softprompt_core.ui.live import ASSETS, plotly_loader
from softprompt_core.ui.messages import keep_log, log

TITLE = "Soft-prompt workbench"
SUBTITLE = "Train soft prompts on frozen models, watch them learn, read what they mean."
FONT = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif"]
MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
CACHE_SECONDS = (3_600, 86_400)
GREYS = gr.themes.Color(
    name="greys", c50="#f7f8fa", c100="#eef0f4", c200="#e1e4ea", c300="#c9ced8", c400="#8f97a6", c500="#5f6777",
    c600="#4a5160", c700="#383d4a", c800="#20232c", c900="#1a1d25", c950="#13151b",
)
"""One scale of greys for every panel, card and field, in light and dark."""


def build_page(context: Context) -> gr.Blocks:
    """The whole page; nothing is loaded or started until a browser opens it."""
    keep_log(context.store.root)
    warm = once(lambda: warm_model(context.device))
    with gr.Blocks(title=TITLE, delete_cache=CACHE_SECONDS, analytics_enabled=False) as page:
        gr.HTML(f'<header id="sp-head"><h1>{TITLE}</h1><p>{SUBTITLE}</p></header>')
        plotly_loader()
        api.build(context)      # first: endpoints are named before any handler can take their names
        shown_run, forked_run = gr.State(""), gr.State("")
        selected_run = gr.Textbox("", visible="hidden", show_label=False, elem_id="selected-run")
        with gr.Tabs(selected="train", overflow_behavior="wrap", elem_id="tabs") as tabs:
            with gr.Tab("Train", id="train"):
                train_tab.build(context, shown_run, forked_run, selected_run, tabs)
            with gr.Tab("Inspect", id="inspect"):
                inspect_tab.build(context, selected_run)
            with gr.Tab("Compare", id="compare"):
                compare_tab.build(context)
            with gr.Tab("Runs", id="runs"):
                runs_tab.build(context, shown_run, forked_run, selected_run, tabs)
        page.load(warm, None, None, show_progress="hidden", api_visibility="private")
    return page


def theme() -> gr.themes.Base:
    """One accent, system fonts, so that nothing is fetched from elsewhere."""
    return gr.themes.Default(
        primary_hue=gr.themes.colors.teal, secondary_hue=gr.themes.colors.teal,
        neutral_hue=GREYS, font=FONT, font_mono=MONO, spacing_size="sm", radius_size="md",
    ).set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="#a5adbb",
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_400",
        block_title_text_color="*neutral_600", checkbox_border_color_dark="*neutral_500",
        button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white", block_shadow="none", block_shadow_dark="none",
    )


def style_sheets() -> list[Path]:
    """Every style sheet of the page."""
    return sorted((ASSETS / "css").glob("*.css"))


def warm_model(device: str) -> None:
    """Loads the model that most will use first, so that the first click on Train doesn't wait for it."""
    try:
        from softprompt_core.config import BUNDLED_MODEL
        from softprompt_core.models import load_model

        load_model(BUNDLED_MODEL, device=device)
    except Exception as error:      # the first run will say so in its own words
        log.warning("The bundled model could not be warmed: %s", error)


def once(work: Callable[[], None]) -> Callable[[], None]:
    """A function that starts `work` in the background the first time it is called."""
    lock = threading.Lock()
    begun: list[bool] = []

    def start() -> None:
        with lock:
            if begun:
                return
            begun.append(True)
        threading.Thread(target=work, name="warm", daemon=True).start()

    return start
