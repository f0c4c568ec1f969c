-- For pages that name this partition, in any month. Others may show how many partitions there are.
SELECT _bemi.make_partition('2026-11-01') WHERE to_regclass('_bemi.changes_2026_11') IS NULL \g /dev/null
