"""One module per container: DuckDB reads its records fast, Python reads them to report bad ones.

`relation(source, layout)` returns SQL with the columns `line` (bigint, in file order), `user_id`,
`item_id` (varchar), `number` (double, the time if it is a number), `date` (double, the time in
seconds if it is a date), `rating` (float) and `rating_known` (bool, whether the rating is absent or
a number); values of a wrong type are null. `records(source, layout)` yields every `Record`.
"""
