# frozen_string_literal: true

# What the tests share: a database with tracked tables, on the server that PGHOST names.

require 'json'
require 'minitest'
require 'pg'
require 'bemi'
require_relative 'vectors'

# The contexts that cannot be sent are meant to be reported.
Bemi.logger = Object.new.tap { |logger| def logger.warn(message) = (@messages ||= []) << message }

module Database
  NAME = 'test_ruby'

  # The directory of PgBouncer's socket, in transaction mode.
  POOLER = ENV.fetch('BEMI_POOLER', nil)

  TABLES = 'CREATE TABLE todo (id serial PRIMARY KEY, task text NOT NULL UNIQUE, done boolean NOT NULL DEFAULT false);' \
           'CREATE TABLE tag (id serial PRIMARY KEY, name text NOT NULL)'

  class << self
    def server(name = NAME, pooled: false)
      { host: pooled ? POOLER : ENV.fetch('PGHOST'), port: pooled ? 6432 : 5432, user: ENV.fetch('PGUSER'), dbname: name }
    end

    def on_server(name, *texts)
      connection = PG.connect(server(name))
      connection.exec('SET client_min_messages = warning')
      texts.map { |text| connection.exec(text) }
    ensure
      connection&.close
    end

    # Makes it once, and drops it at the end.
    def open
      @open ||= begin
        make(NAME, TABLES, %w[todo tag])
        true
      end
    end

    def make(name, tables = nil, tracked = [])
      on_server('postgres', "DROP DATABASE IF EXISTS #{name} WITH (FORCE)", "CREATE DATABASE #{name}")
      at_exit { on_server('postgres', "DROP DATABASE IF EXISTS #{name} WITH (FORCE)") }
      return unless tables

      on_server(name, tables, 'CREATE EXTENSION bemi', *tracked.map { |table| "SELECT bemi.track('#{table}')" }, 'CALL bemi.start()')
    end

    # All changes that fulfil the condition, when they are stored.
    def changes(condition, name = NAME)
      rows = on_server(name, "SELECT bemi.sync('60s')",
                       "SELECT operation, before, after, context FROM bemi.changes WHERE #{condition} ORDER BY id").last.to_a
      rows.map { |row| [row['operation'], *row.values_at('before', 'after', 'context').map { |text| JSON.parse(text) }] }
    end

    # An empty table, and a history that begins here: each test looks at its own changes only.
    def begin_test
      open
      @begin = on_server(NAME, 'TRUNCATE todo, tag', "SELECT bemi.sync('60s')",
                         "SELECT coalesce((SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1), '#{'0' * 32}')").last.getvalue(0, 0)
    end

    # The changes of rows whose task begins with this word, as [task, context].
    def marked(mark)
      changes("id > '#{@begin}' AND coalesce(after ->> 'task', before ->> 'task', after ->> 'name') LIKE '#{mark} %'").map do |_, before, after, context|
        [after['task'] || after['name'] || before['task'], context]
      end
    end
  end
end
