import duckdb

from recllm_tasks.data.ties import TieCounts, count_ties


def test_counts():
    """U1: a, then b and c on one day; U2: two on its first day only; U3: no ties."""
    with duckdb.connect() as connection:
        connection.execute("""
            create temp table core as select * from (values
                ('U1', 'a', 1.0), ('U1', 'b', 2.0), ('U1', 'c', 2.0),
                ('U2', 'a', 1.0), ('U2', 'b', 1.0), ('U2', 'c', 5.0),
                ('U3', 'a', 1.0), ('U3', 'b', 2.0), ('U3', 'c', 3.0)
            ) as t ("user", item, time)
        """)
        assert count_ties(connection, "published") == TieCounts("published", 4, 1)
        assert count_ties(connection, "shuffled").order == "shuffled"
