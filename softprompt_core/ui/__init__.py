"""The Gradio page: one file a tab; the only package besides app.py that knows Gradio."""
