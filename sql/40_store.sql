
--
-- History
--
-- The table is a member of the extension, its partitions are not: the worker
-- makes them, and pg_dump carries them with their rows. The indexes belong to the
-- partitions: were they made by way of bemi.changes, a restored dump would make
-- them twice. Text is compared by bytes, which is what look-ups by key need and
-- is cheaper to index.
--

-- Of a large context, only the first change of a transaction has all of it, see
-- src/decode/stitch_context.c. Without that change (somebody has deleted it), what is left.
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
	IS 'the complete context of a change, also where a large one is stored with an earlier change '
		'of the same transaction';
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
	IS 'internal: names of event triggers of others that the worker fires, NULL if there are none';
REVOKE ALL ON FUNCTION _bemi.event_triggers_of_others() FROM PUBLIC;

-- A partition gives nobody more than bemi.changes does, so it gives nothing: a right that
-- was copied would outlive a REVOKE on bemi.changes, and pass by its row policies.
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
	-- which default privileges can lack, too
	IF object.acl IS NOT NULL THEN
		EXECUTE format('GRANT ALL ON %s TO %s', object.name, object.owner);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.make_private(regclass)
	IS 'internal: takes from everybody but the owner what default privileges gave on a new table';
REVOKE ALL ON FUNCTION _bemi.make_private(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.check_history_code()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_history_code'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_history_code()
	IS 'internal: error if an expression of bemi.changes depends on somebody who is neither its '
		'owner nor a superuser';
REVOKE ALL ON FUNCTION _bemi.check_history_code() FROM PUBLIC;

-- Called by the worker, which knows the neighbours' bounds, before it stores the
-- first change of a month (week, day). Made apart and attached then, because CREATE
-- TABLE ... PARTITION OF would wait for every reader of the history, and make later
-- readers wait for it.
--
-- Rows of the history are written once, so they are frozen as soon as they are vacuumed,
-- rather than with a second visit years later. When that is, is left to the server's
-- autovacuum_vacuum_insert_scale_factor: each visit reads the whole index on contexts,
-- and in proportion to growth that stays a few times the work of writing it.
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

	-- Indexes of users come with ATTACH. No primary key, because bemi.changes may have one or
	-- be given one. Who publishes the history, and deletes from it, needs the identity.
	EXECUTE format('CREATE TABLE _bemi.%I (LIKE bemi.changes INCLUDING ALL EXCLUDING INDEXES)'
		' WITH (autovacuum_freeze_min_age = 0, toast.autovacuum_freeze_min_age = 0)', partition);
	EXECUTE format('CREATE UNIQUE INDEX %I ON _bemi.%I (id) WITH (deduplicate_items = off)',
		partition || '_id_key', partition);
	EXECUTE format('ALTER TABLE _bemi.%I REPLICA IDENTITY USING INDEX %I',
		partition, partition || '_id_key');
	-- For the life of a row, and for all changes of a table. The schema comes third, because
	-- it separates few rows, and each search compares the columns before the key. (So all
	-- changes of a table are found among those of its namesakes in other schemas.) No two
	-- entries are the same, and to find that out takes time.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", primary_key, schema, id)'
		' WITH (deduplicate_items = off)', partition);
	EXECUTE format('CREATE INDEX ON _bemi.%I USING gin (context jsonb_path_ops)', partition);
	-- the same owner, whose rights what users have put on the history runs with
	EXECUTE (SELECT format('ALTER TABLE _bemi.%I OWNER TO %s', partition, c.relowner::regrole)
		FROM pg_class c WHERE c.oid = 'bemi.changes'::regclass);
	-- Readers come by way of bemi.changes, which asks for no right on a partition.
	PERFORM _bemi.make_private(format('_bemi.%I', partition)::regclass);
	-- no wider than the hole that it is for; greatest() and least() pass over NULL
	PERFORM _bemi.attach_partition(format('_bemi.%I', partition)::regclass, format(
		'FROM (%s) TO (%s)',
		coalesce(quote_literal(greatest(nullif(first_day, first_time), hole_from)), 'MINVALUE'),
		coalesce(quote_literal(least(next_day, hole_to)), 'MAXVALUE')));
END
$$;
COMMENT ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz)
	IS 'internal: makes the partition of bemi.changes for the month (see bemi.partition_interval) '
		'of this time, as far as its neighbours leave room';
REVOKE ALL ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_ranges(OUT partition regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_partition_ranges'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION _bemi.partition_ranges()
	IS 'internal: partitions of bemi.changes and the times that they are for, infinite for '
		'MINVALUE and MAXVALUE; without the default partition';
REVOKE ALL ON FUNCTION _bemi.partition_ranges() FROM PUBLIC;

-- What is wrong with what users have done to bemi.changes, with the line that mends it. In
-- pg_trigger.tgtype, 1 stands for ROW and 4 for INSERT.
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
			-- the trigger's function, and those of its WHEN
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
			'trigger %I of %s does not fire, since somebody else can replace a function of it:'
				' ALTER FUNCTION %s OWNER TO %s;', t.name, t.relation, t.of_other, t.owner)
			FROM trigger t WHERE t.enabled IN ('A', 'R') AND t.of_other IS NOT NULL
		UNION ALL SELECT 3, format('a partition is neither attached nor detached:'
				' ALTER TABLE bemi.changes DETACH PARTITION %s FINALIZE;', p.oid::regclass)
			FROM part p WHERE p.pending
	) w(place, warning)
$$;
COMMENT ON FUNCTION _bemi.history_warning()
	IS 'internal: triggers of bemi.changes that do not fire, and partitions whose DETACH '
		'CONCURRENTLY was interrupted; NULL: none';
REVOKE ALL ON FUNCTION _bemi.history_warning() FROM PUBLIC;

-- History is not dropped by the way: DROP EXTENSION needs CASCADE while there is any.
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
