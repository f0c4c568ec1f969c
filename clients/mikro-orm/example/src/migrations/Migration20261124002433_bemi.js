import { Migration } from '@mikro-orm/migrations';

// bemi keeps the history of every row of the tables that this migration finds. In a migration that
// makes another table, add: this.addSql("SELECT bemi.track('the_table')");
export class Migration20261124002433_bemi extends Migration {
  async up() {
    this.addSql(`
      DO $bemi$
      BEGIN
        IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'bemi') THEN
          RAISE EXCEPTION 'the extension bemi is not installed on this PostgreSQL server: install it there, set shared_preload_libraries = ''bemi'' and wal_level = logical, and restart it';
        END IF;
      END
      $bemi$
    `);

    this.addSql(`
      CREATE EXTENSION IF NOT EXISTS bemi
    `);

    this.addSql(`
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
      $bemi$
    `);

    this.addSql(`
      DO $bemi$
      DECLARE
        target regclass;
      BEGIN
        FOR target IN
          SELECT c.oid::regclass FROM pg_class c
          WHERE c.relnamespace = quote_ident('public')::regnamespace AND c.relkind IN ('r', 'p')
            AND NOT c.relispartition AND c.relpersistence = 'p' AND c.relname <> 'mikro_orm_migrations'
            AND NOT EXISTS (SELECT FROM pg_depend d
              WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
          ORDER BY c.relname
        LOOP
          PERFORM bemi.track(target);
        END LOOP;
      END
      $bemi$
    `);
  }

  // The history stays, and so does the extension that holds it.
  async down() {
    this.addSql(`
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
      $bemi$
    `);

    this.addSql(`
      DO $bemi$
      DECLARE
        target regclass;
      BEGIN
        FOR target IN
          SELECT t."table" FROM bemi.tracked t JOIN pg_class c ON c.oid = t."table"
          WHERE c.relnamespace = quote_ident('public')::regnamespace AND NOT c.relispartition
        LOOP
          PERFORM bemi.untrack(target);
        END LOOP;
      END
      $bemi$
    `);
  }
}
