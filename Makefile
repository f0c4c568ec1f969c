# bemi: build, install and test with PGXS. "make help" lists the targets.

PG_CONFIG ?= pg_config

# Where the sources are: make -f elsewhere/bemi/Makefile builds in the current directory.
top := $(dir $(lastword $(MAKEFILE_LIST)))

# The version is stated once, in the control file, and handed to the C code. (VERSION is taken: it
# is PostgreSQL's.)
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(top)bemi.control)

EXTENSION = bemi
MODULE_big = bemi
OBJS = $(patsubst $(top)%.c,%.o,$(sort $(wildcard $(addprefix $(top)src/,*.c */*.c))))
DATA = $(patsubst $(top)%,%,$(sort $(wildcard $(top)bemi--*.sql)))

# The script is made of sql/, in the order of the file names, and committed, so that an installation
# needs nothing but a copy. A test compares the two.
SCRIPT = $(top)$(EXTENSION)--$(EXTVERSION).sql

# The queries that are sent to sources, as C strings. Not committed.
REMOTE_SQL = src/stream/remote_sql.h

# The worker is a libpq client.
PG_CPPFLAGS = -Isrc -I$(srcdir)/src -I$(libpq_srcdir) -DBEMI_VERSION='"$(EXTVERSION)"'
SHLIB_LINK = $(libpq)

# STRICT=1, for developers and CI: more warnings, and each is an error. PostgreSQL's headers count
# as system headers then, for they are not written to pass -Wextra. Left out are the two warnings
# that PostgreSQL's own habits would set off all over: callbacks that ignore an argument, and
# "int i < lengthof(array)".
ifdef STRICT
PG_CPPFLAGS += -isystem $(shell $(PG_CONFIG) --includedir-server)
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
endif

# Bitcode only serves to inline an extension's functions into JIT-compiled expressions, from which
# nothing in bemi gains, and making it takes clang. "make with_llvm=yes" makes it all the same.
# An override, because PGXS assigns the variable itself.
ifneq ($(origin with_llvm),command line)
override with_llvm = no
endif

# The tests of all three kinds. Their names are ROOM_SUBJECT. A word of TESTS is a name or a pattern, else a room,
# else a subject. REGRESS and the like are assigned with := because PGXS asks ifdef, which takes a list that only
# expands to nothing for a list of tests.
TESTS = %
names = $(patsubst test/$(1)/%,%,$(basename $(sort $(wildcard test/$(1)/*.$(2)))))
every := $(call names,sql,sql) $(call names,specs,spec) $(call names,t,pl)
matches = $(or $(filter $(1),$(every)),$(filter $(1)_%,$(every)),$(filter %_$(1),$(every)))
wanted := $(foreach word,$(TESTS),$(call matches,$(word)))
chosen = $(filter $(wanted),$(1))
REGRESS := $(call chosen,$(call names,sql,sql))
ISOLATION := $(call chosen,$(call names,specs,spec))
TAP := $(call chosen,$(call names,t,pl))
# The longest first, so that none of them runs alone at the end.
LONG = track_keys_in_stream track_keys_elsewhere worker_scale worker_backups worker_cancel worker_traces worker_restores stream_faults \
	worker_database_ddl worker_slot_owner worker_crash
PROVE_TESTS := $(patsubst %,test/t/%.pl,$(filter $(LONG),$(TAP)) $(filter-out $(LONG),$(TAP)))
ifneq ($(PROVE_TESTS),)
TAP_TESTS = 1
endif

# What "make check-quick" runs: all but most TAP tests. Of these a few that take little time of the processor, so that
# each room of the code runs for some seconds.
QUICK = format $(call names,sql,sql) $(call names,specs,spec) \
	capture_copy capture_other_writers capture_random context_comment decode_encoding_size \
	decode_redaction extension_dump_restore extension_hijack extension_pg_upgrade stream_stall worker_failing \
	worker_first_light worker_hostile worker_source_owner worker_unreadable
lost = $(filter-out format $(every),$(QUICK) $(LONG))

# "make installcheck" needs no running server: pg_regress, once for the SQL tests and once for the
# specs, starts a throwaway server of its own, which listens on a Unix socket only. Input is under
# test/, expected output in ./expected, where every version of pg_regress looks for it.
THROWAWAY = --temp-config=test/bemi.conf --no-locale --encoding=UTF8
REGRESS_OPTS = --inputdir=test --temp-instance=tmp_check_regress $(THROWAWAY)
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_check_iso $(THROWAWAY)
REGRESS_PREP = output_iso/expected

EXTRA_CLEAN = tmp_check_regress $(REMOTE_SQL)

# Where there is no PGXS yet (a fresh machine), help, test and demo work all the same.
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
# After the include, which empties it; override, so that PROVE_FLAGS=--verbose adds to it.
override PROVE_FLAGS += -I test/perl
else
all install installcheck clean:
	@echo "$(PG_CONFIG) leads to no PostgreSQL to build with. Install the server's development" >&2
	@echo "files, or name another pg_config: make $@ PG_CONFIG=/path/to/pg_config" >&2
	@false
endif

.DEFAULT_GOAL := all

$(SCRIPT): $(sort $(wildcard $(top)sql/*.sql))
	cat $^ >$@

all: $(SCRIPT)

$(REMOTE_SQL): $(top)sql/remote/header.awk $(sort $(wildcard $(top)sql/remote/*.sql)) | directories
	awk -f $^ >$@.new
	mv $@.new $@

# PGXS tracks no headers on Debian, where it is built without dependency tracking.
objects = $(OBJS) $(OBJS:.o=.bc)
$(objects): $(sort $(wildcard $(addprefix $(top)src/,*.h */*.h))) $(top)bemi.control $(REMOTE_SQL)

# They are missing where only the sources are elsewhere.
$(objects): | directories
directories:
	@mkdir -p $(sort $(dir $(OBJS)))

# Up to PostgreSQL 15, pg_isolation_regress looks for expected output only under its output and
# its input directory. A link there keeps all of it in ./expected, and the specs' results, logs
# and diffs away from those of the SQL tests, which they would overwrite.
output_iso/expected:
	mkdir -p output_iso
	ln -s ../expected $@

# From here on nothing needs to be installed first: test/sandbox sees to it.

test:
	@test/sandbox test/run

demo:
	@test/sandbox demo/run

list-tests:
	@printf '%s\n' $(REGRESS:%=test/sql/%.sql) $(ISOLATION:%=test/specs/%.spec) $(PROVE_TESTS)

check-quick:
	$(if $(lost),$(error QUICK or LONG names tests that do not exist: $(lost)))
	@BEMI_CLIENTS=none $(MAKE) --no-print-directory test TESTS='$(QUICK)'

check-format:
	@test/rooms
	@test/format --check

format:
	@test/format

typedefs: all
	@test/format --typedefs

test-versions:
	@test/versions

test-valgrind:
	@test/sandbox test/valgrind

soak:
	@test/sandbox test/soak

fuzz:
	@test/sandbox test/fuzz

bench:
	@bench/run

help:
	@echo 'make                build the extension'
	@echo 'make install        install it into the PostgreSQL that pg_config leads to'
	@echo 'make demo           show it at work on a throwaway server; KEEP=1 leaves the server running'
	@echo 'make test           run all tests: installs what they need, then uses throwaway servers'
	@echo 'make list-tests     print the files that TESTS="..." selects'
	@echo 'make check-quick    run the SQL tests, the specs and some TAP tests (two minutes)'
	@echo 'make format         format the C code as PostgreSQL is formatted; make check-format only says what is not, and which include breaks the order of the rooms'
	@echo 'make typedefs       renew typedefs.list, by which make format knows the names of types'
	@echo 'make test-versions  run all tests with other versions of PostgreSQL, in other releases of Debian (root, long)'
	@echo 'make test-valgrind  run some tests with the servers under valgrind (minutes)'
	@echo 'make soak           kill processes and servers under load, ROUNDS=n times (100), and large data (minutes, 6 GB of memory)'
	@echo 'make fuzz           send the worker messages of all kinds, for MINUTES=n (10)'
	@echo 'make bench          measure what bemi costs and how fast it is, each question against something else (half an hour)'
	@echo 'make installcheck   run the tests with the extension as installed by "make install"'
	@echo 'make clean          remove what was built'
	@echo 'make help           print this list'
	@echo
	@echo 'PG_CONFIG=/path/to/pg_config   which PostgreSQL to use'
	@echo 'TESTS="name ..."               only these tests of any kind: a name, a room or a subject, as in'
	@echo '                               TESTS="track worker_crash retention"'
	@echo 'BENCH="name ..."               only these benchmarks, of those in bench/'
	@echo 'STRICT=1                       more warnings, and each is an error'

.PHONY: directories all install installcheck clean test list-tests check-quick check-format format typedefs \
	test-valgrind test-versions soak fuzz bench demo help
