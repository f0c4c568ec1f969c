# frozen_string_literal: true

# The gem pg alone, with connections that are extended by Bemi::PG.

require_relative 'stack'
require 'bemi/pg'

class PgTest < Minitest::Test
  STACK = 'pg'
  VERSION = PG::VERSION
  include Stack

  INSERT = 'INSERT INTO todo (task) VALUES ($1)'

  def with_connection(pooled = false)
    connection = PG.connect(Database.server(pooled: pooled)).extend(Bemi::PG)
    connection.exec('SET client_min_messages = warning')
    yield connection
  ensure
    connection&.close
  end

  def insert(db, task)
    db.exec_params(INSERT, [task])
  end

  def transaction(db, &block)
    db.transaction(&block)
  end

  def savepoint(db)
    db.exec('SAVEPOINT a')
    yield
    db.exec('RELEASE SAVEPOINT a')
  rescue StandardError
    db.exec('ROLLBACK TO SAVEPOINT a')
    raise
  end

  def ways
    {
      'exec_params' => [3, ->(db, (task)) {
        db.exec_params(INSERT, [task])
        db.async_exec_params('UPDATE todo SET done = true WHERE task = $1', [task])
        db.exec_params('DELETE FROM todo WHERE task = $1 RETURNING id', [task]) { |result| assert_equal(1, result.ntuples) }
      }],
      'exec, query' => [3, ->(db, tasks) {
        %i[exec async_exec query].zip(tasks) { |name, task| db.public_send(name, "INSERT INTO todo (task) VALUES ('#{task}')") }
      }],
      'synchronous and asynchronous' => [3, ->(db, tasks) {
        %i[sync_exec async_query].zip(tasks) { |name, task| db.public_send(name, "INSERT INTO todo (task) VALUES ('#{task}')") }
        db.sync_exec_params(INSERT, [tasks[2]])
      }],
      'several statements' => [2, ->(db, tasks) { db.exec(tasks.first(2).map { |task| "INSERT INTO todo (task) VALUES ('#{task}')" }.join('; ')) }],
      'send_query' => [2, ->(db, tasks) {
        db.send_query_params(INSERT, [tasks[0]])
        db.get_last_result
        db.send_query("INSERT INTO todo (task) VALUES ('#{tasks[1]}')")
        db.get_last_result
      }],
      'pipeline' => [2, ->(db, tasks) {
        db.enter_pipeline_mode
        tasks.first(2).each { |task| db.send_query_params(INSERT, [task]) }
        db.pipeline_sync
        2.times { db.get_result && db.get_result }
        assert_equal(::PG::PGRES_PIPELINE_SYNC, db.get_result.result_status)
        db.exit_pipeline_mode
      }],
      'copy_data' => [3, ->(db, tasks) {
        db.copy_data('COPY todo (task) FROM STDIN') { tasks.each { |task| db.put_copy_data("#{task}\n") } }
      }]
    }
  end
end
