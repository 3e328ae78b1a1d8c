"""Constitutional AI (arXiv 2212.08073): critique and revision by written principles."""
