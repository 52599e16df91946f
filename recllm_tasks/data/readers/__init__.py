"""One module a container: its records as DuckDB reads them, and as Python does to name a bad one.

`relation(source, layout)` gives SQL with the columns `line` (bigint, the order of the file),
`user_id`, `item_id` (varchar), `number` (double, the time if it is one), `date` (double, the time
in seconds if it is a date), `rating` (float) and `rating_known` (bool, whether the rating is one or
absent); what is of a wrong type is null. `records(source, layout)` yields every `Record`.
"""
