"""DuckDB and dbt: the build of all tables from landed files, and what it left."""
