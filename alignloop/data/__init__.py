"""Data: rows, records, chat templates, quality, token groups.

| file | purpose |
|---|---|
| sources | rows out of files, folders, runs, hub data sets |
| forms, values, builders | which columns make which record |
| columns | `read_records`, `write_records` |
| convert, split | records of another kind, parts without a common prompt |
| chat | chat templates: messages to text |
| normal, quality, diversity, check | what is wrong with a data set, and what to drop |
| overlength | fit a prompt and completions into a length |
| tokenize, packing | token groups, packed rows |
"""
