CREATE TABLE todo (
    id serial PRIMARY KEY,
    task text NOT NULL,
    "isCompleted" boolean NOT NULL DEFAULT false
);
CREATE EXTENSION bemi;
SELECT bemi.track('todo');
CALL bemi.start();
