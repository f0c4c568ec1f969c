# frozen_string_literal: true

require_relative 'base'

# What every stack of a driver and a framework must do: each row that an application changes has the context of the code that
# changes it, and a row that it changes without a context has none.
#
# A test that includes this has STACK and VERSION, and the methods
#
#   with_connection(pooled) { |db| }    in this thread
#   ways                                { name => [number of changes, ->(db, tasks)] }; tasks are three
#   insert(db, task)
#   transaction(db) { }
#   savepoint(db) { }                   within a transaction
#
# What passes is a "yes" in the table of docs/how-to/set-context/ruby.md, see z_table_test.rb.
module Stack
  THREADS = 8
  PASSED = ENV.fetch('BEMI_PASSED', nil)

  # The server keeps these members for itself.
  RESERVED = %w[_db _whole _tags].freeze

  def self.passed(stack, version, feature)
    File.write(PASSED, "#{stack}|#{version}|#{feature}\n", mode: 'a') if PASSED
  end

  def setup
    Database.begin_test
  end

  def feature(name)
    Stack.passed(self.class::STACK, self.class::VERSION, name)
  end

  def test_ways
    with_connection do |db|
      insert(db, 'none 1')
      ways.each_with_index do |(way, (count, write)), number|
        context = { 'way' => way, 'note' => "it's ? $1 %s :name */ é" }
        Bemi.with_context(context) { write.call(db, Array.new(3) { |i| "way#{number} #{i}" }) }
        assert_equal([context] * count, Database.marked("way#{number}").map(&:last), way)
      end
      insert(db, 'none 2')
    end
    assert_equal([['none 1', {}], ['none 2', {}]], Database.marked('none'))
    feature('context by itself')
  end

  def test_hostile_contexts
    sent = []
    with_connection do |db|
      VECTORS['contexts'].each_with_index do |vector, i|
        Bemi.with_context(vector['context']) do
          insert(db, "hostile #{i}")
          sent << Bemi.current_context
        end
      end
    end
    found = Database.marked('hostile')
    assert_equal(sent.size, found.size)
    sent.zip(found).each { |expected, (_, context)| assert_equal(expected.except(*RESERVED), context.except(*RESERVED)) }
  end

  def levels(mark)
    Database.marked(mark).map { |task, context| [task.split.last, context['level']] }
  end

  def test_transactions
    with_connection do |db|
      Bemi.with_context({ level: 0 }) do
        transaction(db) do
          insert(db, 'level a')
          Bemi.with_context({ level: 1 }) { insert(db, 'level b') }
          Bemi.with_context(nil) { insert(db, 'level c') }
          insert(db, 'level d')
        end
      end
      assert_raises(ZeroDivisionError) do
        Bemi.with_context({ level: 2 }) { transaction(db) { insert(db, 'level e') && raise(ZeroDivisionError) } }
      end
    end
    assert_equal([['a', 0], ['b', 1], ['c', nil], ['d', 0]], levels('level'))
    feature('transactions')
  end

  def test_savepoints
    with_connection do |db|
      Bemi.with_context({ level: 0 }) do
        transaction(db) do
          insert(db, 'save a')
          Bemi.with_context({ level: 1 }) { savepoint(db) { insert(db, 'save b') } }
          assert_raises(ZeroDivisionError) do
            Bemi.with_context({ level: 2 }) { savepoint(db) { insert(db, 'save c') && raise(ZeroDivisionError) } }
          end
          insert(db, 'save d')
        end
      end
    end
    assert_equal([['a', 0], ['b', 1], ['d', 0]], levels('save'))
    feature('savepoints')
  end

  def test_threads
    parallel('thread', pooled: false)
    feature('threads')
  end

  def test_pooler
    skip('PgBouncer is not installed') unless Database::POOLER
    parallel('pooled', pooled: true)
    feature('PgBouncer')
  end

  # Every thread has its own context and writes it into its rows.
  def parallel(mark, pooled:)
    Array.new(THREADS) { |i| Thread.new { write_rows(mark, i, pooled) } }.each(&:join)
    found = Database.marked(mark)
    assert_equal(THREADS * 3 * 4, found.size)
    found.each do |task, context|
      _, i, j = task.split
      assert_equal(i == 'none' ? {} : { 'i' => i.to_i, 'j' => j.to_i }, context, task)
    end
  end

  def write_rows(mark, thread, pooled)
    with_connection(pooled) do |db|
      3.times do |j|
        Bemi.with_context({ i: thread, j: j }) do
          insert(db, "#{mark} #{thread} #{j} a")
          transaction(db) { %w[b c].each { |letter| insert(db, "#{mark} #{thread} #{j} #{letter}") } }
        end
        insert(db, "#{mark} none #{thread} #{j}")
      end
    end
  end
end
