"""Parts of the reader of CSV and Parquet, `readers/table.py`."""
