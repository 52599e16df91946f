"""One module per container: DuckDB reads its records fast, Python reads them to report bad ones.

`settled(source, layout)` is the layout of one file, with what had to be found out from it: its
separator, and one name per role. `relation(source, layout)` returns SQL with the columns `line`
(bigint, in file order), `user_id`, `item_id`, `time_text` and `rating_text` (varchar, as they stand
in the file, null where there is nothing or no text). `interactions(source, layout)` yields the same
as `Record`s, and those that are broken; `as_written(record, layout)` are a refused one's values.
values.py says what the texts mean, for both. `records(source, layout)` yields what files of items
hold, with values of any type.
"""
