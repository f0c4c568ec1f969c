// The migration that `npx bemi migration:create` writes.

'use strict';

const literal = text => `'${text.replaceAll("'", "''")}'`;

// SQL goes into a template literal of the migration.
const indented = sql => sql.trim().replace(/[\\`]|\$\{/g, '\\$&').replace(/^(?=.)/gm, '      ');

const INSTALLED = `
DO $bemi$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'bemi') THEN
    RAISE EXCEPTION 'the extension bemi is not installed on this PostgreSQL server: install it there, set shared_preload_libraries = ''bemi'' and wal_level = logical, and restart it';
  END IF;
END
$bemi$`;

const EXTENSION = 'CREATE EXTENSION IF NOT EXISTS bemi';

// Without tables of extensions, which manage their own, and without partitions, which are tracked with their root.
const tables = (schema, migrationsTable) => `
    SELECT c.oid::regclass FROM pg_class c
    WHERE c.relnamespace = quote_ident(${literal(schema)})::regnamespace AND c.relkind IN ('r', 'p')
      AND NOT c.relispartition AND c.relpersistence = 'p' AND c.relname <> ${literal(migrationsTable)}
      AND NOT EXISTS (SELECT FROM pg_depend d
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY c.relname`;

const TRACK = (schema, migrationsTable) => `
DO $bemi$
DECLARE
  target regclass;
BEGIN
  FOR target IN${tables(schema, migrationsTable)}
  LOOP
    PERFORM bemi.track(target);
  END LOOP;
END
$bemi$`;

// A source that an earlier down() drops exists until its worker has dropped it. This transaction has done
// nothing so far that blocks the worker.
const START = `
DO $bemi$
DECLARE
  deadline timestamptz := clock_timestamp() + interval '30s';
BEGIN
  WHILE NOT _bemi.is_started() LOOP
    BEGIN
      CALL bemi.start(wait => false);
    EXCEPTION WHEN object_in_use THEN
      IF clock_timestamp() > deadline THEN RAISE; END IF;
      PERFORM pg_sleep(0.1);
    END;
  END LOOP;
END
$bemi$`;

// The slot would keep all WAL from now on, so it is dropped, too. What has been committed so far is
// stored before. If that is not possible, bemi.gaps has the time from which changes are missing.
const STOP = `
DO $bemi$
BEGIN
  IF NOT EXISTS (SELECT FROM bemi.status WHERE source = 'main') THEN RETURN; END IF;
  BEGIN
    PERFORM bemi.sync('30s');
  EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'the last changes could not be stored: %', SQLERRM;
  END;
  CALL bemi.drop_source('main');
END
$bemi$`;

const UNTRACK = schema => `
DO $bemi$
DECLARE
  target regclass;
BEGIN
  FOR target IN
    SELECT t."table" FROM bemi.tracked t JOIN pg_class c ON c.oid = t."table"
    WHERE c.relnamespace = quote_ident(${literal(schema)})::regnamespace AND NOT c.relispartition
  LOOP
    PERFORM bemi.untrack(target);
  END LOOP;
END
$bemi$`;

const statement = sql => `    this.addSql(\`\n${indented(sql)}\n    \`);\n`;

/** The source text of the migration. format: 'ts', 'esm' or 'cjs'. */
function migrationText({ className, format, schema, migrationsTable }) {
  const typescript = format === 'ts';
  const modifier = typescript ? 'override ' : '';
  const type = typescript ? ': Promise<void>' : '';
  return `${format === 'cjs' ? "const { Migration } = require('@mikro-orm/migrations');" : "import { Migration } from '@mikro-orm/migrations';"}

// bemi keeps the history of every row of the tables that this migration finds. In a migration that
// makes another table, add: this.addSql("SELECT bemi.track('the_table')");
${format === 'cjs' ? '' : 'export '}class ${className} extends Migration {
  ${modifier}async up()${type} {
${statement(INSTALLED)}
${statement(EXTENSION)}
${statement(START)}
${statement(TRACK(schema, migrationsTable))}  }

  // The history stays, and so does the extension that holds it.
  ${modifier}async down()${type} {
${statement(STOP)}
${statement(UNTRACK(schema))}  }
}
${format === 'cjs' ? `\nexports.${className} = ${className};\n` : ''}`;
}

exports.migrationText = migrationText;
