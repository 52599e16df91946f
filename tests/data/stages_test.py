"""Stages of a preparation."""

import duckdb
import pytest

from recllm_tasks.data.stages import keep_output_clean


class _Refusing:
    """A connection in a notebook without ipywidgets: the bar is off, and cannot be set."""

    def __init__(self, shown: bool):
        self._shown = shown

    def execute(self, query: str):
        if query.startswith("set "):
            raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
        return duckdb.connect().execute(f"select {self._shown}")


def test_duckdbs_progress_bar_is_left_alone_where_it_is_off():
    keep_output_clean(_Refusing(False))
    with pytest.raises(duckdb.InvalidInputException):
        keep_output_clean(_Refusing(True))
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = true")
        keep_output_clean(connection)
        (printed,) = connection.execute(
            "select current_setting('enable_progress_bar_print')"
        ).fetchone()
        assert not printed
