"""The four stages, each from Arrow tables to Arrow tables; the Dagster graph and ``build_from_table`` share them."""
