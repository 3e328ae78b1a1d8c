"""Reports of runs and pipelines: one HTML file each, or Markdown or JSON."""

from alignloop.report.render import render, render_pipeline, render_run, write_report, write_text

__all__ = ["render", "render_pipeline", "render_run", "write_report", "write_text"]
