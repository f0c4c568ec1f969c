# bemi: build, install and test with PGXS. "make help" lists the targets.

PG_CONFIG ?= pg_config

# Where the sources are: make -f elsewhere/bemi/Makefile builds in the current directory.
top := $(dir $(lastword $(MAKEFILE_LIST)))

# The version is only in the control file, and passed to the C code. (PGXS uses VERSION for
# PostgreSQL's.)
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(top)bemi.control)

EXTENSION = bemi
MODULE_big = bemi
OBJS = $(patsubst $(top)%.c,%.o,$(sort $(wildcard $(addprefix $(top)src/,*.c */*.c))))
DATA = $(patsubst $(top)%,%,$(sort $(wildcard $(top)bemi--*.sql)))

# The script is made of sql/, in the order of the file names, with sql/query and sql/revert before the rights at the
# end. It is committed, so an installation only copies it. A test compares the two.
SCRIPT = $(top)$(EXTENSION)--$(EXTVERSION).sql

# What a source runs that cannot have the extension, made of sql/source/. Committed, too: it is handed to people who
# build nothing.
SOURCE_SCRIPT = $(top)bemi-source.sql
DATA += $(patsubst $(top)%,%,$(SOURCE_SCRIPT))

# The queries that are sent to sources, as C strings. Not committed.
REMOTE_SQL = src/stream/remote_sql.h

# The worker is a libpq client.
PG_CPPFLAGS = -Isrc -I$(srcdir)/src -I$(libpq_srcdir) -DBEMI_VERSION='"$(EXTVERSION)"'
SHLIB_LINK = $(libpq)

# STRICT=1, for developers and CI: more warnings, and each is an error. PostgreSQL's headers count
# as system headers then, because they do not pass -Wextra. Two warnings are left out because
# PostgreSQL's habits cause them everywhere: callbacks that ignore an argument, and
# "int i < lengthof(array)".
ifdef STRICT
PG_CPPFLAGS += -isystem $(shell $(PG_CONFIG) --includedir-server)
PG_CFLAGS += -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare
endif

# Bitcode only serves to inline an extension's functions into JIT-compiled expressions, which does
# not help bemi, and it needs clang. "make with_llvm=yes" makes it.
# An override, because PGXS assigns the variable itself.
ifneq ($(origin with_llvm),command line)
override with_llvm = no
endif

# The tests of all three kinds. Their names are ROOM_SUBJECT. A word of TESTS is a name, a pattern, a room, or a
# subject: the first that matches counts. REGRESS and the other lists are assigned with := because PGXS uses ifdef,
# which is true for a variable that only expands to nothing.
# It may also come from the environment.
ifeq ($(TESTS),)
TESTS = %
endif
names = $(patsubst test/$(1)/%,%,$(basename $(sort $(wildcard test/$(1)/*.$(2)))))
every := $(call names,sql,sql) $(call names,specs,spec) $(call names,t,pl)
matches = $(or $(filter $(1),$(every)),$(filter $(1)_%,$(every)),$(filter %_$(1),$(every)))
wanted := $(foreach word,$(TESTS),$(call matches,$(word)))
chosen = $(filter $(wanted),$(1))
REGRESS := $(call chosen,$(call names,sql,sql))
ISOLATION := $(call chosen,$(call names,specs,spec))
TAP := $(call chosen,$(call names,t,pl))
# The longest first, because at the end they would run alone.
LONG = track_keys_in_stream track_keys_elsewhere worker_scale worker_backups worker_cancel worker_traces worker_restores stream_faults \
	worker_database_ddl worker_slot_owner worker_crash query_oracle
PROVE_TESTS := $(patsubst %,test/t/%.pl,$(filter $(LONG),$(TAP)) $(filter-out $(LONG),$(TAP)))
ifneq ($(PROVE_TESTS),)
TAP_TESTS = 1
endif

# What "make check-quick" runs: everything except most TAP tests. It has a few TAP tests that take little processor
# time, and run each room of the code for some seconds.
QUICK = format $(call names,sql,sql) $(call names,specs,spec) \
	capture_copy capture_other_writers capture_random context_comment decode_encoding_size \
	decode_redaction extension_dump_restore extension_hijack extension_pg_upgrade stream_stall worker_failing \
	worker_first_light worker_hostile worker_source_owner worker_unreadable
lost = $(filter-out format $(every),$(QUICK) $(LONG))

# "make installcheck" needs no running server: pg_regress, once for the SQL tests and once for the
# specs, starts its own throwaway server, which listens only on a Unix socket. Input is under
# test/, expected output in ./expected, where every version of pg_regress looks for it.
THROWAWAY = --temp-config=test/bemi.conf --no-locale --encoding=UTF8
REGRESS_OPTS = --inputdir=test --temp-instance=tmp_check_regress $(THROWAWAY)
ISOLATION_OPTS = --inputdir=test --temp-instance=tmp_check_iso $(THROWAWAY)
REGRESS_PREP = output_iso/expected

EXTRA_CLEAN = tmp_check_regress $(REMOTE_SQL)

# Without PGXS (on a new machine), help, test and demo work, too.
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
# After the include, which empties it. With override, PROVE_FLAGS=--verbose adds to it.
override PROVE_FLAGS += -I test/perl
else
all install installcheck clean:
	@echo "$(PG_CONFIG) leads to no PostgreSQL to build with. Install the server's development" >&2
	@echo "files, or name another pg_config: make $@ PG_CONFIG=/path/to/pg_config" >&2
	@false
endif

.DEFAULT_GOAL := all

$(SCRIPT): $(foreach part,[0-8]* query/* revert/* 9*,$(sort $(wildcard $(top)sql/$(part).sql)))
	cat $^ >$@

$(SOURCE_SCRIPT): $(sort $(wildcard $(top)sql/source/*)) $(top)bemi.control
	awk -v version=$(EXTVERSION) -f $(top)sql/source/include.awk $(filter %.sql,$^) >$@.new
	mv $@.new $@

all: $(SCRIPT) $(SOURCE_SCRIPT)

$(REMOTE_SQL): $(top)sql/remote/header.awk $(sort $(wildcard $(top)sql/remote/*.sql)) | directories
	awk -f $^ >$@.new
	mv $@.new $@

# PGXS tracks no headers on Debian, where it is built without dependency tracking.
objects = $(OBJS) $(OBJS:.o=.bc)
$(objects): $(sort $(wildcard $(addprefix $(top)src/,*.h */*.h))) $(top)bemi.control $(REMOTE_SQL)

# They are missing in a build directory outside of the sources.
$(objects): | directories
directories:
	@mkdir -p $(sort $(dir $(OBJS)))

# Up to PostgreSQL 15, pg_isolation_regress looks for expected output only under its output and
# its input directory. With a link there, all of it is in ./expected, and the results, logs and
# diffs of the specs do not overwrite those of the SQL tests.
output_iso/expected:
	mkdir -p output_iso
	ln -s ../expected $@

# The targets from here on need no installation first: test/sandbox installs what is missing.

test:
	@test/sandbox test/run

demo:
	@test/sandbox demo/run

dashboard:
	@BEMI_NODE=required test/sandbox clients/dashboard/demo/run $(if $(PORT),--port $(PORT))

# The sandbox may be another user, who cannot write into the checkout. What he leaves in the folder is copied as it
# is: a link of his must not lead to a file that only we can read.
dashboard-pictures:
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && trap 'exit 143' HUP INT TERM && chmod 777 "$$dir" && \
	BEMI_CLIENTS=required test/sandbox clients/dashboard/demo/run --pictures "$$dir" && \
	mkdir -p docs/dashboard && rm -f docs/dashboard/*.webp && cp -P "$$dir"/*.webp docs/dashboard/

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
	@echo 'make install        install it into the PostgreSQL of pg_config'
	@echo 'make demo           run the demo on a throwaway server; KEEP=1 leaves the server running'
	@echo 'make dashboard      show the dashboard with a sample history, on a throwaway server; PORT=n chooses the port'
	@echo 'make dashboard-pictures'
	@echo '                    take the pictures of the dashboard in docs/dashboard'
	@echo 'make test           install what the tests need, and run all tests on throwaway servers'
	@echo 'make list-tests     print the files that TESTS="..." selects'
	@echo 'make check-quick    run the SQL tests, the specs and some TAP tests (two minutes)'
	@echo 'make format         format the C code as PostgreSQL is formatted'
	@echo 'make check-format   check the format of the C code, and which rooms of src/ include which others'
	@echo 'make typedefs       renew typedefs.list, the names of types for make format'
	@echo 'make test-versions  run all tests with other versions of PostgreSQL, in other releases of Debian (root, long)'
	@echo 'make test-valgrind  run some tests with the servers under valgrind (minutes)'
	@echo 'make soak           kill processes and servers under load, ROUNDS=n times (100), and store large data (minutes, 6 GB of memory)'
	@echo 'make fuzz           send the worker messages of all kinds, for MINUTES=n (10)'
	@echo 'make bench          measure the cost and the speed of bemi, compared with other ways (half an hour)'
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
	test-valgrind test-versions soak fuzz bench demo dashboard dashboard-pictures help
