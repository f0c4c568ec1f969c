# frozen_string_literal: true

# ActiveRecord without Rails: the ways in which it writes, and what it prepares.

require_relative 'stack'
require 'bemi/active_record'

ActiveRecord::Base.logger = nil

class Todo < ActiveRecord::Base
  self.table_name = 'todo'
end

# In which the tests run, also those behind PgBouncer, which needs prepared_statements: false.
module ActiveRecordStack
  def self.included(test)
    test.include(Stack)
  end

  def with_connection(pooled = false)
    connect(pooled)
    yield ActiveRecord::Base.connection
  ensure
    ActiveRecord::Base.connection_pool.release_connection
  end

  # One pool for all threads.
  def connect(pooled)
    settings = Database.server(pooled: pooled)
    ActiveRecordStack.once([self.class, pooled]) do
      ActiveRecord::Base.establish_connection(adapter: 'postgresql', host: settings[:host], port: settings[:port], username: settings[:user],
                                              database: settings[:dbname], pool: 20, advisory_locks: false,
                                              prepared_statements: self.class::PREPARED && !pooled)
    end
  end

  LOCK = Mutex.new

  def self.once(key)
    LOCK.synchronize do
      yield unless @key == key
      @key = key
    end
  end

  def insert(_db, task)
    Todo.create!(task: task)
  end

  def transaction(_db, &block)
    Todo.transaction(&block)
  end

  def savepoint(_db, &block)
    Todo.transaction(requires_new: true, &block)
  end

  def ways
    {
      'save and destroy' => [3, ->(_, (task)) {
        todo = Todo.create!(task: task)
        todo.update!(done: true)
        todo.destroy!
      }],
      'several rows' => [9, ->(_, tasks) {
        Todo.insert_all!(tasks.map { |task| { task: task } })
        Todo.where(task: tasks).update_all(done: true)
        Todo.where(task: tasks).delete_all
      }],
      'upsert_all' => [2, ->(_, (task)) { 2.times { |i| Todo.upsert_all([{ task: task, done: i.odd? }], unique_by: :task) } }],
      'find_or_create_by' => [1, ->(_, (task)) { 2.times { Todo.find_or_create_by!(task: task) } }],
      'find_by_sql' => [1, ->(_, (task)) { Todo.find_by_sql(["INSERT INTO todo (task) VALUES (?) RETURNING *", task]) }],
      'execute, exec_query' => [3, ->(db, tasks) {
        db.execute("INSERT INTO todo (task) VALUES (#{db.quote(tasks[0])})")
        db.exec_query('INSERT INTO todo (task) VALUES ($1)', 'SQL', [tasks[1]])
        db.insert("INSERT INTO todo (task) VALUES (#{db.quote(tasks[2])})")
      }],
      'query' => [2, ->(db, tasks) {
        db.query("INSERT INTO todo (task) VALUES (#{db.quote(tasks[0])})")
        assert_equal([[tasks[1]]], db.query("INSERT INTO todo (task) VALUES (#{db.quote(tasks[1])}) RETURNING task"))
      }],
      'update and delete by text' => [2, ->(db, (task)) {
        Bemi.with_context(nil) { Todo.create!(task: task.sub('way', 'text')) }
        db.update("UPDATE todo SET task = #{db.quote(task)} WHERE task LIKE 'text%'")
        db.delete("DELETE FROM todo WHERE task = #{db.quote(task)}")
      }],
      'several statements' => [2, ->(db, tasks) { db.execute(tasks.first(2).map { |task| "INSERT INTO todo (task) VALUES (#{db.quote(task)})" }.join('; ')) }]
    }
  end
end

class ActiveRecordTest < Minitest::Test
  STACK = 'ActiveRecord'
  VERSION = ActiveRecord.version.to_s
  PREPARED = true
  include ActiveRecordStack

  PREPARED_STATEMENTS = 'SELECT statement FROM pg_prepared_statements'

  # Contexts make no prepared statements. What was prepared before stays.
  def test_prepared_statements
    with_connection do |db|
      db.clear_cache!
      Todo.create!(task: 'prepared')
      read = -> { Todo.find_by(task: 'prepared').update!(done: !Todo.find_by(task: 'prepared').done) }
      2.times { read.call }
      before = db.select_values(PREPARED_STATEMENTS).sort
      refute_empty(before)
      50.times do |i|
        Bemi.with_context({ i: i }) do
          read.call
          Todo.create!(task: "prepared #{i}")
          Todo.where(task: "prepared #{i}").update_all(done: true)
          write_prepared(db, "prepared asked #{i}")
        end
      end
      assert_equal(before, db.select_values(PREPARED_STATEMENTS).sort)
      # Without a context, it is prepared as the application asks for.
      write_prepared(db, 'prepared none 1')
      assert_equal(before.size + 1, db.select_values(PREPARED_STATEMENTS).size)
      Bemi.with_context({ i: 2 }) { write_prepared(db, 'prepared asked 2b') }
    end
    found = Database.marked('prepared')
    assert_equal(152, found.size)
    found.each { |task, context| assert_equal(task == 'prepared none 1' ? {} : { 'i' => task.split.last.to_i }, context, task) }
    feature('prepared statements')
  end

  # An application can ask for this.
  def write_prepared(db, task)
    type = ActiveRecord::Type::String.new
    bind = ActiveRecord::Relation::QueryAttribute.new('task', task, type)
    db.exec_query('INSERT INTO todo (task) VALUES ($1) RETURNING id', 'SQL', [bind], prepare: true)
  end

  def test_reading_is_unchanged
    texts = []
    subscriber = ActiveSupport::Notifications.subscribe('sql.active_record') { |*, payload| texts << payload[:sql] }
    with_connection { Bemi.with_context({ a: 1 }) { Todo.where(task: 'x').to_a } }
    refute(texts.any? { |text| text.include?('Bemi') })
  ensure
    ActiveSupport::Notifications.unsubscribe(subscriber)
  end

  # As Rails' query log tags from 7.1 on, and marginalia, write them.
  def test_tags_stay
    with_connection do |db|
      Bemi.with_context({ a: 1 }) { db.execute("INSERT INTO todo (task) VALUES ('tags 1') /*controller='todos'*/") }
    end
    assert_equal([['tags 1', { 'a' => 1 }]], Database.marked('tags'))
  end

  # The adapter of PostGIS is a subclass. Rails 7.0 does not pass the connection.
  def test_other_databases_are_unchanged
    sql = 'INSERT INTO t VALUES (1)'
    Bemi.with_context({ a: 1 }) do
      adapters = ActiveRecord::ConnectionAdapters
      connections = [adapters::AbstractAdapter, adapters::PostgreSQLAdapter, Class.new(adapters::PostgreSQLAdapter)].map(&:allocate)
      hooked = [*connections, nil].map { |connection| Bemi::ActiveRecord::Transformer.call(sql, connection) != sql }
      assert_equal([false, true, true, true], hooked)
    end
  end

  def test_hooked_once
    with_connection do |db|
      Bemi::ActiveRecord.hook
      text = nil
      subscriber = ActiveSupport::Notifications.subscribe('sql.active_record') { |*, payload| text = payload[:sql] }
      Bemi.with_context({ a: 1 }) { db.execute("INSERT INTO todo (task) VALUES ('once 1')") }
      assert_equal(1, text.scan('Bemi {').size)
    ensure
      ActiveSupport::Notifications.unsubscribe(subscriber)
    end
  end
end

class UnpreparedActiveRecordTest < Minitest::Test
  STACK = 'ActiveRecord, prepared_statements: false'
  VERSION = ActiveRecord.version.to_s
  PREPARED = false
  include ActiveRecordStack
end
