-- Fails unless the history contains exactly the changes of todo.sql.

CREATE TEMPORARY TABLE expected AS
SELECT 0::bigint AS n, primary_key, "table", operation, before, after, context
FROM bemi.changes WITH NO DATA;

INSERT INTO expected VALUES
    (1, '26', 'todo', 'CREATE', '{}', '{"id": 26, "task": "Sleep", "isCompleted": false}',
     '{"userId": 187234, "endpoint": "/todo", "params": {"task": "Sleep", "isCompleted": false}}'),
    (2, '27', 'todo', 'CREATE', '{}', '{"id": 27, "task": "Eat", "isCompleted": false}',
     '{"userId": 187234, "endpoint": "/todo", "params": {"task": "Eat", "isCompleted": false}}'),
    (3, '28', 'todo', 'CREATE', '{}', '{"id": 28, "task": "Repeat", "isCompleted": false}',
     '{"userId": 187234, "endpoint": "/todo", "params": {"task": "Repeat", "isCompleted": false}}'),
    (4, '26', 'todo', 'UPDATE', '{"id": 26, "task": "Sleep", "isCompleted": false}',
     '{"id": 26, "task": "Sleep", "isCompleted": true}',
     '{"userId": 187234, "endpoint": "/todo/complete", "params": {"id": 26}}'),
    (5, '27', 'todo', 'DELETE', '{"id": 27, "task": "Eat", "isCompleted": false}', '{}',
     '{"userId": 187234, "endpoint": "/todo/27", "params": {"id": 27}}');

DO $$
DECLARE
    amiss text;
BEGIN
    WITH recorded AS (
        SELECT row_number() OVER (ORDER BY id) AS n, primary_key, "table", operation,
               before, after, context
        FROM bemi.changes
    )
    SELECT string_agg(format('recorded: %s, expected: %s', r, e), E'\n' ORDER BY n) INTO amiss
    FROM recorded r FULL JOIN expected e USING (n)
    WHERE r IS DISTINCT FROM e;

    IF amiss IS NOT NULL THEN
        RAISE EXCEPTION 'the history is not what the demo did' USING DETAIL = amiss;
    END IF;
END
$$;
