"""Judgements by models and programs: advisers, rubrics, certificates, constitutions, simulated people."""
