
--
-- History
--
-- The table is a member of the extension. Its partitions are not: the worker
-- creates them, and pg_dump dumps them with their rows. Each partition has its own
-- indexes, because a restored dump would create indexes of bemi.changes twice. Text
-- columns have the collation "C", which look-ups by key need and which is cheaper
-- to index.
--

-- Only the first change of a transaction has all of a large context, see
-- src/decode/stitch_context.c. If that change was deleted, the result is what this change has.
CREATE FUNCTION bemi.full_context(change bemi.changes)
	RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF change.context ? '_whole' THEN
		RETURN coalesce((SELECT c.context FROM bemi.changes c
				WHERE c.id = (change.context ->> '_whole')::uuid
					AND c.committed_at = change.committed_at),
			change.context);
	END IF;
	RETURN change.context;
END
$$;
COMMENT ON FUNCTION bemi.full_context(bemi.changes)
	IS 'complete context of a change, also if an earlier change of the same transaction stores it';
GRANT EXECUTE ON FUNCTION bemi.full_context(bemi.changes) TO PUBLIC;

CREATE FUNCTION _bemi.attach_partition(partition regclass, bounds text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_attach_partition'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.attach_partition(regclass, text)
	IS 'internal: attaches a partition to bemi.changes, with the rights of its owner';
REVOKE ALL ON FUNCTION _bemi.attach_partition(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.event_triggers_of_others()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(quote_ident(e.evtname), ', ' ORDER BY e.evtname)
	FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
	WHERE e.evtenabled IN ('A', 'R')
		AND p.pronamespace NOT IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		AND coalesce(current_setting('event_triggers', true), 'on') = 'on'
$$;
COMMENT ON FUNCTION _bemi.event_triggers_of_others()
	IS 'internal: event triggers, other than bemi''s, that fire in the worker; NULL if there are '
		'none';
REVOKE ALL ON FUNCTION _bemi.event_triggers_of_others() FROM PUBLIC;

-- Nobody but the owner has rights on a partition, because they would outlive a REVOKE on
-- bemi.changes and bypass its row policies.
CREATE FUNCTION _bemi.make_private(relation regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	object record;
	grantee text;
BEGIN
	SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relowner::regrole AS owner,
		c.relacl AS acl INTO STRICT object
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
	FOR grantee IN
		SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
		FROM aclexplode(object.acl) a WHERE a.grantee <> object.owner
	LOOP
		EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', object.name, grantee);
	END LOOP;
	-- Default privileges can also have taken rights from the owner.
	IF object.acl IS NOT NULL THEN
		EXECUTE format('GRANT ALL ON %s TO %s', object.name, object.owner);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.make_private(regclass)
	IS 'internal: revokes from everybody but the owner what default privileges granted on a new '
		'table';
REVOKE ALL ON FUNCTION _bemi.make_private(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.check_history_code()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_history_code'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_history_code()
	IS 'internal: error if an expression of bemi.changes depends on an object of a role that is '
		'neither its owner nor a superuser';
REVOKE ALL ON FUNCTION _bemi.check_history_code() FROM PUBLIC;

-- The worker knows the bounds of the neighbours, and calls this before it stores the first change
-- of a month (week, day). The table is created alone and then attached, because CREATE TABLE ...
-- PARTITION OF would wait for every reader of the history, and later readers would wait for it.
--
-- Rows of the history are written once. So the first vacuum freezes them, and they need no second
-- one years later. The server's autovacuum_vacuum_insert_scale_factor decides when that is, because
-- each vacuum reads the whole index on contexts. With vacuums in proportion to growth, that costs a
-- few times the work of writing the index.
CREATE FUNCTION _bemi.make_partition(committed_at timestamptz,
		hole_from timestamptz DEFAULT NULL, hole_to timestamptz DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
AS $$
DECLARE
	unit text := coalesce(current_setting('bemi.partition_interval', true), 'month');
	first_time timestamptz := '4714-11-24 00:00:00+00 BC';
	last_time timestamptz := '294276-12-31 23:59:59.999999+00';
	-- infinite times belong to the partition of the last finite one
	moment timestamptz := greatest(first_time, least(last_time, committed_at));
	first_day timestamptz;
	next_day timestamptz;
	partition name;
	stem name;
	n integer := 0;
BEGIN
	-- before anything computes an expression of bemi.changes
	PERFORM _bemi.check_history_code();
	-- Near the limits of the type, a bound can lie outside of it.
	BEGIN
		first_day := date_trunc(unit, moment);
	EXCEPTION WHEN datetime_field_overflow THEN
		first_day := first_time;
	END;
	BEGIN
		next_day := date_trunc(unit, moment + ('1 ' || unit)::interval);
	EXCEPTION WHEN datetime_field_overflow THEN
		next_day := NULL;
	END;
	partition := 'changes_'
		|| to_char(first_day, CASE unit WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY_MM_DD' END)
		|| CASE WHEN first_day < '0001-01-01' THEN '_bc' ELSE '' END;
	-- Somebody may have detached the partition of this month, and kept it.
	stem := partition;
	WHILE EXISTS (SELECT FROM pg_class
		WHERE relname = partition AND relnamespace = '_bemi'::regnamespace) LOOP
		n := n + 1;
		partition := stem || '_' || n;
	END LOOP;

	-- ATTACH adds the indexes of users. There is no primary key, because bemi.changes may have
	-- one or get one. The replica identity is for users who publish the history and delete from
	-- it.
	EXECUTE format('CREATE TABLE _bemi.%I (LIKE bemi.changes INCLUDING ALL EXCLUDING INDEXES)'
		' WITH (autovacuum_freeze_min_age = 0, toast.autovacuum_freeze_min_age = 0)', partition);
	EXECUTE format('CREATE UNIQUE INDEX %I ON _bemi.%I (id) WITH (deduplicate_items = off)',
		partition || '_id_key', partition);
	EXECUTE format('ALTER TABLE _bemi.%I REPLICA IDENTITY USING INDEX %I',
		partition, partition || '_id_key');
	-- For all changes of a row, and of a table. The schema comes third, because it separates few
	-- rows, and each search compares the columns before the key. (So the changes of a table are
	-- found among those of tables of the same name in other schemas.) No two entries are equal,
	-- so a search for duplicates would only cost time.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", primary_key, schema, id)'
		' WITH (deduplicate_items = off)', partition);
	EXECUTE format('CREATE INDEX ON _bemi.%I USING gin (context jsonb_path_ops)', partition);
	-- For times. It has the smallest and largest times and ids of every 64 pages, so it is tiny.
	EXECUTE format('CREATE INDEX ON _bemi.%I USING brin (committed_at, id)'
		' WITH (pages_per_range = 64)', partition);
	-- Deletes are asked for often, and are rare in most histories.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", id) WITH (deduplicate_items = off)'
		' WHERE operation = ''DELETE''', partition);
	PERFORM _bemi.create_indexes(partition);
	-- The same owner, because triggers and expressions that users add to the history run with his
	-- rights.
	EXECUTE (SELECT format('ALTER TABLE _bemi.%I OWNER TO %s', partition, c.relowner::regrole)
		FROM pg_class c WHERE c.oid = 'bemi.changes'::regclass);
	-- Readers use bemi.changes, and need no rights on a partition.
	PERFORM _bemi.make_private(format('_bemi.%I', partition)::regclass);
	-- Not wider than the hole between the neighbours. greatest() and least() ignore NULL.
	PERFORM _bemi.attach_partition(format('_bemi.%I', partition)::regclass, format(
		'FROM (%s) TO (%s)',
		coalesce(quote_literal(greatest(nullif(first_day, first_time), hole_from)), 'MINVALUE'),
		coalesce(quote_literal(least(next_day, hole_to)), 'MAXVALUE')));
END
$$;
COMMENT ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz)
	IS 'internal: creates the partition of bemi.changes for the month of this time (see '
		'bemi.partition_interval), or for the part of it that its neighbours leave free';
REVOKE ALL ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_ranges(OUT partition regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_partition_ranges'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION _bemi.partition_ranges()
	IS 'internal: partitions of bemi.changes with their bounds, infinite for MINVALUE and '
		'MAXVALUE; without the default partition';
REVOKE ALL ON FUNCTION _bemi.partition_ranges() FROM PUBLIC;

-- In pg_trigger.tgtype, 1 is ROW and 4 is INSERT.
CREATE FUNCTION _bemi.history_warning()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH part(oid, pending) AS (
		SELECT 'bemi.changes'::regclass::oid, false
		UNION ALL SELECT i.inhrelid, i.inhdetachpending FROM pg_inherits i
			WHERE i.inhparent = 'bemi.changes'::regclass
	), trigger(name, relation, enabled, owner, of_other) AS (
		SELECT t.tgname, t.tgrelid::regclass, t.tgenabled, c.relowner::regrole,
			-- the trigger's function, and those in its WHEN
			(SELECT min(f.oid)::regprocedure FROM pg_depend d
					JOIN pg_proc f ON f.oid = d.refobjid JOIN pg_roles r ON r.oid = f.proowner
				WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
					AND d.refclassid = 'pg_proc'::regclass
					AND f.proowner <> c.relowner AND NOT r.rolsuper)
		FROM pg_trigger t JOIN part p ON p.oid = t.tgrelid JOIN pg_class c ON c.oid = t.tgrelid
		WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgtype & 5 = 5
	)
	SELECT string_agg(w.warning, '; ' ORDER BY w.place, w.warning)
	FROM (
		SELECT 1, format('trigger %I of %s does not fire: ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;',
				t.name, t.relation, t.relation, t.name)
			FROM trigger t WHERE t.enabled = 'O'
		UNION ALL SELECT 2, format(
			'trigger %I of %s does not fire, because another role owns a function that it calls:'
				' ALTER FUNCTION %s OWNER TO %s;', t.name, t.relation, t.of_other, t.owner)
			FROM trigger t WHERE t.enabled IN ('A', 'R') AND t.of_other IS NOT NULL
		UNION ALL SELECT 3, format('a partition is half detached:'
				' ALTER TABLE bemi.changes DETACH PARTITION %s FINALIZE;', p.oid::regclass)
			FROM part p WHERE p.pending
	) w(place, warning)
$$;
COMMENT ON FUNCTION _bemi.history_warning()
	IS 'internal: triggers of bemi.changes that do not fire and partitions that are half '
		'detached, each with the command to run; NULL if there are none';
REVOKE ALL ON FUNCTION _bemi.history_warning() FROM PUBLIC;

CREATE FUNCTION _bemi.protect_history()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_protect_history'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.protect_history()
	IS 'event trigger function: refuses DROP EXTENSION bemi without CASCADE while changes are '
		'stored';
REVOKE ALL ON FUNCTION _bemi.protect_history() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_protect_history ON ddl_command_start
	WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED')
	EXECUTE FUNCTION _bemi.protect_history();
COMMENT ON EVENT TRIGGER bemi_protect_history
	IS 'refuses DROP EXTENSION bemi without CASCADE while changes are stored';
